"""The clauses of the protocol, each a switch, all on. A mutation of the simulator turns one off, to show that
the checkers notice what the clause is there for; nothing else ever does.

May live here: the switches, and how the parts read them. Nobody may branch on anything but his own switch.
"""

from msgspec import Struct


class Rules(Struct, frozen=True, gc=False):
    # stores
    boot_binding: bool = True
    """A store in another boot than the tables name refuses everything."""
    epoch_compare: bool = True
    """Data are accepted for the exact epoch only, from its owner."""
    session_compare: bool = True
    """Only of the newest session, after the older one has drained."""
    drain_at_seal: bool = True
    """A store has sealed when nothing older is under way in its backends."""
    durable_seal_floor: bool = True
    """A restart does not forget a seal."""
    intent_before_data: bool = True
    """A region's mark is durable before its data are written."""
    tag_when_cleared: bool = True
    """A region that is cleared gets the tag of that epoch: who left since its last write may lack that."""
    owner_only_clearing: bool = True
    """A store does not clear regions by itself when it has flushed."""
    doubt_after_failed_flush: bool = True
    """A copy that could not flush is neither flushed again nor read, until it is out of step."""
    reopen_on_restart: bool = True
    """The life of an owner begins with an epoch of its own; a store refuses a second life in one epoch."""
    # owners
    hold_before_own_promotion: bool = True
    retire_before_ack: bool = True
    retire_needs_complete_replica: bool = True
    """A new owner goes by copies of which every store has sealed, and retires the others."""
    returning_own_regions: bool = True
    shared_read_lock: bool = True
    equalise_after_eio: bool = True
    equalise_at_takeover: bool = True
    seal_before_serving: bool = True
    check_lease: bool = True
    wait_for_retired_side: bool = True
    lossy_mark: bool = True
    """A flush of every session that survived a loss fails once."""
    losses_in_tables: bool = True
    """So does one of every session that survived the owner at which a flush failed."""
    rewrite_after_failed_flush: bool = True
    """What the page cache of the last copy shows is written again before it is dropped."""
    durable_sole_holder_mark: bool = True
    """As `SoleHolderRight(durable=…)`."""
    # whoever proposes
    stamp_compare: bool = True
    """A takeover names the lease stamp that was seen to run out."""


ALL_RULES = Rules()
NAMES = Rules.__struct_fields__


def without(*names: str) -> Rules:
    """All rules but these."""
    assert set(names) <= set(NAMES), f"there is no rule {set(names) - set(NAMES)}"
    return Rules(**dict.fromkeys(names, False))
