"""Which faults a run has when a rule is taken away: those under which the rule matters.

May live here: the table. In the mix of a long run each fault is in a quarter of the seeds, so that a rule
which needs three of them together would be missed for long, whatever the checkers can do.
"""

from typing import Final

from tests.simulation.cluster.settings import FAULTS

ALL: Final = tuple(fault for fault in FAULTS if fault != "flush-error")
"""Beside power cuts a failing flush may take the last copy, which is nobody's promise."""
MUTATIONS: Final[dict[str, tuple[str, ...]]] = {
    "boot_binding": ("reboot", "reboot-all", "site-down"),
    "epoch_compare": ALL,
    "session_compare": ALL,
    "drain_at_seal": ("slow-disk", "kill-export", "isolate", "pause-store"),
    "durable_seal_floor": ("kill-site", "isolate", "kill-store", "kill-manager"),
    "intent_before_data": ("kill-both",),
    "tag_when_cleared": ("cut", "isolate", "kill-export", "pause-store"),
    "owner_only_clearing": ("cut", "kill-export", "kill-store", "slow-disk"),
    "doubt_after_failed_flush": ("flush-error", "kill-export", "slow-disk"),
    "reopen_on_restart": ("kill-export", "slow-link", "break"),
    "hold_before_own_promotion": ("log-away", "kill-store", "kill-export", "isolate"),
    "retire_before_ack": ("kill-store", "cut", "kill-export", "isolate"),
    "retire_needs_complete_replica": ("disk-error", "cut", "pause-store"),
    "returning_own_regions": ("isolate", "cut", "kill-export", "one-way"),
    "shared_read_lock": ("kill-store", "slow-disk"),
    "equalise_after_eio": ("disk-error", "pause-store", "slow-disk"),
    "equalise_at_takeover": ("kill-export", "isolate", "kill-both"),
    "seal_before_serving": ("pause-export", "isolate", "slow-link"),
    "check_lease": ("isolate", "pause-export", "slow-link"),
    "wait_for_retired_side": ("isolate", "pause-export"),
    "lossy_mark": ("reboot", "reboot-all"),
    "durable_sole_holder_mark": ("kill-export", "log-away", "isolate", "cut"),
    "stamp_compare": ("log-away", "isolate", "pause-site"),
}
