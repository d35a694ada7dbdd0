"""What is promised to whom while faults are in force: whose I/O may wait, fail, or lose its connection.

May live here: what each fault touches, and the questions of chaos about it; no I/O. The promises:
- I/O of which nothing is touched goes on (INV-7): a fault at a site is not felt by a client elsewhere whose
  volume lies elsewhere; faults of managers are not felt at all by a volume that lies at its owner's site
  alone. (What lies at other sites too is served under a lease, which a manager renews through the log.)
- I/O that is touched waits. It fails only when a disk says so, or after `io_timeout`; with several copies
  only when every copy is hit.
- A connection ends only with the export that serves it.
- What was not flushed may be lost only when every copy has lost power; then the next flush of every session
  that wrote it fails.
"""

from drills.layout import Volume
from drills.report import FaultRun

UNAFFECTED_S = 6.0
"""Longest time without an answer of who is not touched: what a busy machine of two processors needs."""
TIMEOUT_SHARE = 0.7
"""Of `io_timeout`: what lasted longer may have failed I/O."""

MANAGERS = {"kill-manager", "pause-manager", "kill-leader", "clock-jump"}
LINKS = {"partition", "slow-link"}
EXPORTS = {"kill-export", "pause-export"}
STORES = {"kill-store", "pause-store"}
SITES = {"kill-site", "pause-site", "power-loss", "lost-real-volume"}
"""All that a site serves; a lost real volume makes export and store of its site open everything again."""
MAY_COST_QUORUM = MANAGERS | LINKS | {"kill-site", "pause-site", "power-loss", "disk-full"}
DISKS = {"slow-disk", "disk-error"}
DISKS_FAIL = {"disk-error", "lost-real-volume", "disk-full", "power-loss"}
"""After these a device or a flush may say EIO or ENOSPC. (After power-loss: the next flush, to tell what was
lost.)"""
DISCONNECT = {"kill-export", "kill-site", "power-loss", "lost-real-volume"}


def touched(faults: list[FaultRun], volume: Volume, through: str, sites: int) -> list[FaultRun]:
    """Those of `faults` that I/O to `volume` through site `through` may notice, in a cluster of `sites`."""
    leased = volume.sites != {volume.owner}
    if leased and 2 * len({fault.site for fault in faults if fault.fault in MAY_COST_QUORUM}) > sites - 1:
        return faults  # a majority may be missing, and leases run out
    return [fault for fault in faults if _touches(fault, volume, through, leased=leased)]


def _touches(fault: FaultRun, volume: Volume, through: str, *, leased: bool) -> bool:
    name, site = fault.fault, fault.site
    serving = {through, volume.owner}
    involved = serving | volume.sites
    if leased and site == volume.owner and name in MAY_COST_QUORUM:
        return True
    if name in MANAGERS:
        return len(volume.copies) > 1 and site in involved  # a retirement waits for its lease
    if name in LINKS:
        peer = fault.options.get("peer", "")
        return site in involved and (peer in involved if peer else len(involved) > 1)
    if name in EXPORTS:
        return site in serving
    if name in STORES:
        return site in volume.sites and (volume.owner != site or len(volume.copies) > 1)
    if name in DISKS:
        return fault.options.get("real", "") in volume.reals
    if name == "disk-full":
        return site in volume.sites
    return site in involved


def may_fail(faults: list[FaultRun], volume: Volume, io_timeout_s: float) -> bool:
    """Whether an error may be the answer to a request."""
    if any(fault.healed_s - fault.injected_s > io_timeout_s * TIMEOUT_SHARE for fault in faults):
        return True
    bad = [fault for fault in faults if fault.fault in DISKS_FAIL]
    if len(volume.copies) == 1:
        return any(fault.site in volume.sites and _hits(fault, volume) for fault in bad)
    return all(any(fault.site in copy for fault in bad) for copy in volume.copies)


def may_disconnect(faults: list[FaultRun], through: str) -> bool:
    here = {fault.fault for fault in faults if fault.site == through}
    # A manager that starts replaces an export that does not answer it.
    replaced = here & {"pause-export", "pause-site"} and here & {"kill-manager", "kill-leader", "clock-jump"}
    return bool(here & DISCONNECT or replaced)


def may_lose(faults: list[FaultRun], volume: Volume) -> bool:
    """Whether what was not flushed may be gone: every copy has lost power."""
    dark = {fault.site for fault in faults if fault.fault == "power-loss" and fault.injected_s}
    return all(copy & dark for copy in volume.copies)


def _hits(fault: FaultRun, volume: Volume) -> bool:
    return fault.fault not in ("disk-error", "lost-real-volume") or fault.options["real"] in volume.reals
