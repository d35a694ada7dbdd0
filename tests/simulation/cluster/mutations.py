"""On what stage a rule is taken away: faults under which it matters, and settings that make it matter often.

May live here: the table. In the mix of a long run each fault is in a quarter of the seeds, so that a rule
which needs three of them together would be missed for long, whatever the checkers can do.
"""

from typing import Final

from tests.simulation.cluster.settings import Stage, VolumeWanted

PAIR: Final = (VolumeWanted("v1", ((0,), (1,)), 12),)
SPANNING: Final = (VolumeWanted("v1", ((0, 1), (2, 3)), 6),)
SELDOM: Final = {
    "sites": 3, "volumes": PAIR, "clients": 4, "depth": 4, "think_s": 1.0, "hot_sectors": 24,
    "max_active": 3, "store_timeout_s": 1.0, "zeros": False,
}  # fmt: skip
"""What was written is soon flushed and cleared, and not written again for a while."""
LATE: Final = {
    "sites": 3, "volumes": PAIR, "depth": 4, "think_s": 0.02, "hot_sectors": 2, "shared": True,
    "delay_s": 0.01, "jitter_s": 0.05, "fault_every_s": 0.7, "zeros": False,
}  # fmt: skip
"""Many writes of the same sectors are under way when something happens."""
READING: Final = {
    "sites": 3, "volumes": PAIR, "clients": 4, "depth": 4, "think_s": 0.05, "hot_sectors": 8, "shared": True,
    "lease_ms": 1_000, "fault_every_s": 3.0, "flushes": 0.02, "reads": 0.9, "zeros": False,
}  # fmt: skip
"""Clients of an owner that is cut off read on for a while, before each waits for a write."""
WRITING: Final = {
    "reads": 0.05, "flushes": 0.02, "hot_sectors": 8, "lease_ms": 1_000, "delay_s": 0.002, "jitter_s": 0.003,
    "fault_every_s": 1.5,
}  # fmt: skip
"""Clients of an owner that has lost its lease write on for a while, before each waits for a read."""
HELD: Final = READING | {
    "lease_ms": 4_000, "fault_every_s": 7.0, "duration_s": 20.0, "store_timeout_s": 1.0, "drift": 0.0,
    "commit_s": 0.002, "log_loss": 0.0, "delay_s": 0.0003, "jitter_s": 0.0,
}  # fmt: skip
"""An owner holds his lease for long after somebody claimed."""
QUIET: Final = {
    "sites": 3, "volumes": PAIR, "clients": 2, "depth": 1, "think_s": 0.3, "hot_sectors": 8, "shared": True,
    "lease_ms": 1_000, "fault_every_s": 4.0, "duration_s": 12.0, "store_timeout_s": 2.5, "zeros": False,
    "log_loss": 0.0, "drift": 0.0, "commit_s": 0.002, "delay_s": 0.0003, "jitter_s": 0.02, "io_s": 0.0002,
    "record_s": 0.0002, "flushes": 0.05, "reads": 0.3,
}  # fmt: skip
"""Nobody writes for a moment now and then, and what he wrote last stays."""
PARTLY: Final = SELDOM | {
    "volumes": (VolumeWanted("v1", ((0, 1), (2,)), 12),), "think_s": 0.2, "fault_every_s": 3.0,
    "store_timeout_s": 2.5, "reads": 0.2, "shared": True, "delay_s": 0.002, "jitter_s": 0.003,
    "log_loss": 0.0, "commit_s": 0.002, "record_s": 0.0002, "io_s": 0.0002,
}  # fmt: skip
"""Few regions are active at a time."""
ALONE: Final = READING | {
    "store_timeout_s": 1.0, "think_s": 0.1, "log_loss": 0.0, "duration_s": 26.0, "fault_every_s": 8.0,
    "commit_s": 0.002, "reads": 0.7, "delay_s": 0.002, "jitter_s": 0.003,
}  # fmt: skip
"""Time for a copy to leave, to come back, and for a takeover."""
FAILING: Final = {
    "sites": 3,
    "volumes": PAIR,
    "zeros": False,
    "fault_every_s": 0.7,
    "flushes": 0.05,
    "log_loss": 0.0,
}
"""Flushes fail at the only copy in sync, while the other one comes back."""
MUTATIONS: Final[dict[str, Stage]] = {
    "boot_binding": Stage(("reboot", "reboot-all", "site-down")),
    "epoch_compare": Stage(("log-away",), LATE | WRITING, ("reopen_on_restart",)),
    "session_compare": Stage(
        ("break", "slow-disk"), LATE | {"sites": 2, "hot_sectors": 8, "fault_every_s": 0.4}
    ),
    "drain_at_seal": Stage(("slow-disk", "kill-export"), LATE | {"hot_sectors": 8}),
    "durable_seal_floor": Stage(("forgotten-seal",), QUIET),
    "intent_before_data": Stage(
        ("kill-both",), LATE | {"hot_sectors": 24, "max_active": 3, "record_s": 0.02, "io_s": 0.0002}
    ),
    "tag_when_cleared": Stage(("cut", "isolate"), SELDOM | {"think_s": 0.2, "depth": 2}),
    "owner_only_clearing": Stage(("kill-export", "cut"), LATE | {"hot_sectors": 24, "max_active": 3}),
    "doubt_after_failed_flush": Stage(("flush-error", "kill-export", "slow-disk")),
    "reopen_on_restart": Stage(("kill-export", "slow-link"), LATE),
    "hold_before_own_promotion": Stage(("log-away", "kill-store", "kill-export", "isolate")),
    "retire_before_ack": Stage(("kill-store", "cut", "kill-export", "isolate")),
    "retire_needs_complete_replica": Stage(("partly-sealed",), PARTLY),
    "returning_own_regions": Stage(("isolate",), SELDOM),
    "shared_read_lock": Stage(("kill-store", "slow-disk")),
    "equalise_after_eio": Stage(
        ("disk-error",), LATE | {"sites": 4, "volumes": SPANNING, "hot_sectors": 24, "io_timeout_s": 6.0}
    ),
    "equalise_at_takeover": Stage(("kill-export", "isolate", "kill-both")),
    "seal_before_serving": Stage(("pause-export", "isolate", "slow-link")),
    "check_lease": Stage(("isolate",), READING),
    "wait_for_retired_side": Stage(("late-claim",), HELD, ("stamp_compare",)),
    "lossy_mark": Stage(("reboot", "reboot-all")),
    "losses_in_tables": Stage(("lost-flush", "kill-store", "kill-export"), FAILING),
    "rewrite_after_failed_flush": Stage(("lost-flush", "kill-store"), FAILING),
    "durable_sole_holder_mark": Stage(("lost-right",), ALONE),
    "stamp_compare": Stage(("late-claim",), HELD, ("wait_for_retired_side",)),
}
