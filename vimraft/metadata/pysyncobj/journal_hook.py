"""Giving PySyncObj a journal of ours.

May live here: the replacement of its module global `createJournal`, which its constructor calls; there is no
other way in. The journal is handed over per thread, so several nodes may live in one process (tests, the
simulation), and whoever makes a SyncObj without handing one gets the stock journal.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pysyncobj.syncobj
from pysyncobj.journal import Journal


class _Handed(threading.local):
    journal: Journal | None = None


_handed: Final = _Handed()
_stock: Final = pysyncobj.syncobj.createJournal


def create_journal(journalFile: str | None = None) -> Journal:  # noqa: N803 (PySyncObj's name)
    journal, _handed.journal = _handed.journal, None
    return _stock(journalFile) if journal is None else journal


@contextmanager
def handing(journal: Journal) -> Iterator[None]:
    """The SyncObj that this thread makes inside uses `journal`."""
    _handed.journal = journal
    try:
        yield
    finally:
        _handed.journal = None


pysyncobj.syncobj.createJournal = create_journal
