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

    def rolled(self, count: int, element: T) -> "Chunked[T]":
        """This one without its first `count` elements, and with `element` behind it."""
        if count > self._length:
            raise IndexError(f"{count} of {self._length} elements")
        chunks, tail, skip = self._chunks, (*self._tail, element), self._skip + count
        if len(tail) == _CHUNK:
            chunks, tail = (*chunks, tail), ()
        if skip >= _CHUNK:
            gone, skip = divmod(skip, _CHUNK)
            chunks = chunks[gone:]
        made: Chunked[T] = Chunked.__new__(Chunked)
        made._chunks = chunks
        made._tail = tail
        made._skip = skip
        made._length = self._length + 1 - count
        return made

    def first(self, count: int) -> tuple[T, ...]:
        """The first `count` elements; in constant time if they are few."""
        end = self._skip + count
        if self._chunks and end <= _CHUNK:
            return self._chunks[0][self._skip : end]
        return tuple(islice(self, count))

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
