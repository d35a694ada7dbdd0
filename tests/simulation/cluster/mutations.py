"""On what stage a rule is taken away: faults under which it matters, and settings that make it matter often.

May live here: the table. In the mix of a long run each fault is in a quarter of the seeds, so that a rule
which needs three of them together would be missed for long, whatever the checkers can do.
"""

from typing import Final

from tests.simulation.cluster.settings import FAULTS, Stage

ALL: Final = tuple(fault for fault in FAULTS if fault != "flush-error")
"""Beside power cuts a failing flush may take the last copy, which is nobody's promise."""
MUTATIONS: Final[dict[str, Stage]] = {
    "boot_binding": Stage(("reboot", "reboot-all", "site-down")),
    "epoch_compare": Stage(ALL),
    "session_compare": Stage(ALL),
    "drain_at_seal": Stage(("slow-disk", "kill-export", "isolate", "pause-store")),
    "durable_seal_floor": Stage(("kill-site", "isolate", "kill-store", "kill-manager")),
    "intent_before_data": Stage(("kill-both",)),
    "tag_when_cleared": Stage(("cut", "isolate", "kill-export", "pause-store")),
    "owner_only_clearing": Stage(("cut", "kill-export", "kill-store", "slow-disk")),
    "doubt_after_failed_flush": Stage(("flush-error", "kill-export", "slow-disk")),
    "reopen_on_restart": Stage(("kill-export", "slow-link", "break")),
    "hold_before_own_promotion": Stage(("log-away", "kill-store", "kill-export", "isolate")),
    "retire_before_ack": Stage(("kill-store", "cut", "kill-export", "isolate")),
    "retire_needs_complete_replica": Stage(("disk-error", "cut", "pause-store")),
    "returning_own_regions": Stage(("isolate", "cut", "kill-export", "one-way")),
    "shared_read_lock": Stage(("kill-store", "slow-disk")),
    "equalise_after_eio": Stage(("disk-error", "pause-store", "slow-disk")),
    "equalise_at_takeover": Stage(("kill-export", "isolate", "kill-both")),
    "seal_before_serving": Stage(("pause-export", "isolate", "slow-link")),
    "check_lease": Stage(("isolate", "pause-export", "slow-link")),
    "wait_for_retired_side": Stage(("isolate", "pause-export")),
    "lossy_mark": Stage(("reboot", "reboot-all")),
    "durable_sole_holder_mark": Stage(("kill-export", "log-away", "isolate", "cut")),
    "stamp_compare": Stage(("log-away", "isolate", "pause-site")),
}
