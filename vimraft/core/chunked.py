"""A sequence that is never changed, grows at its end and shrinks at its beginning, cheaply.

May live here: this one collection. The history of changes keeps a thousand rows; as a tuple each command
would copy all of them at every manager. In chunks it copies a few dozen.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")
_CHUNK: Final = 32


class Chunked(Sequence[T]):
    """Equal to another one, or to a tuple, of equal elements."""

    __slots__ = ("_chunks", "_length", "_skip", "_tail")

    def __init__(self, elements: Iterable[T] = ()) -> None:
        every = tuple(elements)
        full = len(every) // _CHUNK * _CHUNK
        self._chunks = tuple([every[at : at + _CHUNK] for at in range(0, full, _CHUNK)])
        """_CHUNK elements each."""
        self._tail = every[full:]
        """Fewer than _CHUNK."""
        self._skip = 0
        """Elements at the beginning of the first chunk (or of the tail) that are gone."""
        self._length = len(every)

    def appended(self, element: T) -> "Chunked[T]":
        """This one and `element` behind it."""
        return self._with(self._chunks, (*self._tail, element), self._skip, self._length + 1)

    def without_first(self, count: int) -> "Chunked[T]":
        """This one but for its first `count` elements; there are as many."""
        if not count:
            return self
        gone, skip = divmod(self._skip + count, _CHUNK)
        if gone <= len(self._chunks):
            return self._with(self._chunks[gone:], self._tail, skip, self._length - count)
        raise IndexError(f"{count} of {self._length} elements")

    @staticmethod
    def _with(chunks: tuple[tuple[T, ...], ...], tail: tuple[T, ...], skip: int, length: int) -> "Chunked[T]":
        made: Chunked[T] = Chunked.__new__(Chunked)
        if len(tail) == _CHUNK:
            chunks, tail = (*chunks, tail), ()
        made._chunks, made._tail, made._skip, made._length = chunks, tail, skip, length
        return made

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return islice(chain.from_iterable((*self._chunks, self._tail)), self._skip, None)

    def __reversed__(self) -> Iterator[T]:
        backwards = chain.from_iterable(part[::-1] for part in (self._tail, *self._chunks[::-1]))
        return islice(backwards, self._length)

    @overload
    def __getitem__(self, item: int) -> T: ...
    @overload
    def __getitem__(self, item: slice) -> tuple[T, ...]: ...
    def __getitem__(self, item: int | slice) -> T | tuple[T, ...]:
        if isinstance(item, slice):
            return tuple(self)[item]
        at = item + self._length if item < 0 else item
        if not 0 <= at < self._length:
            raise IndexError(item)
        chunk, place = divmod(at + self._skip, _CHUNK)
        return self._chunks[chunk][place] if chunk < len(self._chunks) else self._tail[place]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Chunked | tuple):
            return self._length == len(other) and tuple(self) == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Chunked({tuple(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Chunked, (tuple(self),)
