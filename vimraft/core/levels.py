"""Levels: which behaviours of apply a cluster has agreed on, and who can read them.

May live here: the numbers, what each brought, and the questions about them. A *level* names one encoding
of requests, outcomes and tables together with one set of decisions in `apply`; all managers of a cluster
are at the same level because it is part of the tables. It rises only by `SetLevel`, refused while any
manager runs a release that cannot read it, and never falls.

| level | first written by | what it brought |
|---|---|---|
| 1 | 0.1 | the first format |
| 2 | 0.2 | rows: what managers read; changes: what they replaced; results: when; entries: many |
| 3 | this release | copies: the commands that keep them in step, boots of stores, moves, the trash |

Rules that keep managers of different releases equal (INV-8), whatever bytes are in the log:
- A request carries the level it was written for in its version byte. One above the level of the tables is
  Malformed, at every release alike; but for `FormCluster` and `SetLevel`, which carry the level that they
  bring about, so that a release that does not know that level refuses them as well.
- A release overlooks fields that its level does not know. So the codec strips those fields from what was
  written for a lower level, and at that level no such field ever reaches the tables or a digest.
- A command that a level brought is written for that level at least (`codec.request_level`), so that below it
  all releases find it Malformed.
- At level 1 the rows cannot say what a manager reads. The managers tell each other in heartbeats, and
  `SetLevel` carries what was said; apply compares it with the managers that there are when it is applied.
"""

from typing import Final

FIRST: Final = 1
LATEST: Final = 3
"""The highest level that this release reads and writes."""

MANAGERS_SAY_LEVEL: Final = 2
"""From here on a manager's row says which level its release reads."""
REMEMBERS: Final = 2
"""From here on a change in the history remembers what it replaced."""
RESULTS_HAVE_TIME: Final = 2
"""From here on results of clients are forgotten by their age, and hold fewer segments."""
REMOVES_UNCLEAN: Final = 2
"""From here on a real volume can go although its unused space still waits to be zeroed again."""
ENTRIES_HOLD_MANY: Final = 2
"""From here on an entry of the log may hold several requests."""
COPIES: Final = 3
"""From here on a volume may have several copies, and be in the trash."""


def readable(level: int) -> bool:
    return FIRST <= level <= LATEST
