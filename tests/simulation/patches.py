"""PySyncObj on simulated time: its module globals replaced while a run lasts, and put back afterwards.

May live here: the replacements. PySyncObj takes its clock, its randomness, its poller and its wake-up
pipe from module globals; each of them asks the machine that runs at this moment. Sets of nodes iterate
in the order of string hashes, which differ from process to process, so nodes hash by content here.
"""

import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pysyncobj.syncobj
import structlog
from pysyncobj.node import Node


class Running(Protocol):
    """The machine whose code runs now."""

    def clock(self) -> float: ...
    def draw(self) -> float: ...
    def wake(self) -> None: ...
    def poll(self) -> None: ...
    def is_file(self, path: str) -> bool: ...


class _Random:
    def __init__(self, current: Callable[[], Running]) -> None:
        self._current = current

    def random(self) -> float:
        return self._current().draw()


class _Poller:
    def __init__(self, machine: Running) -> None:
        self._machine = machine

    def poll(self, _timeout: float) -> None:
        self._machine.poll()

    def subscribe(self, *_: Any) -> None: ...
    def unsubscribe(self, *_: Any) -> None: ...


class _Notifier:
    def __init__(self, machine: Running) -> None:
        self._machine = machine

    def notify(self) -> None:
        self._machine.wake()


class _Path:
    def __init__(self, current: Callable[[], Running]) -> None:
        self._current = current

    def isfile(self, path: str) -> bool:
        return self._current().is_file(path)


class _Os:
    """The part of `os` that PySyncObj's main module uses once it runs."""

    def __init__(self, current: Callable[[], Running]) -> None:
        self.path = _Path(current)


_hashes: dict[str, int] = {}


def _hash(node: Node) -> int:
    known = _hashes.get(node._id)
    if known is None:
        known = _hashes[node._id] = zlib.crc32(str(node._id).encode())
    return known


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines: thousands of runs, each full of faults."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), processors=[_drop]
    )
    logger = logging.getLogger("pysyncobj")
    disabled, logger.disabled = logger.disabled, True
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logger.disabled = disabled
        structlog.configure(**before)


@contextmanager
def simulated(current: Callable[[], Running]) -> Iterator[None]:
    """`current()`: the machine that runs. Not for two worlds at a time."""
    with (
        quiet(),
        replaced(Node, __hash__=_hash),
        replaced(
            pysyncobj.syncobj,
            monotonicTime=lambda: current().clock(),
            random=_Random(current),
            createPoller=lambda _kind: _Poller(current()),
            PipeNotifier=lambda _poller: _Notifier(current()),
            os=_Os(current),
        ),
    ):
        yield
