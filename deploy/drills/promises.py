"""What is promised to whom while faults are in force: whose I/O may wait, fail, or lose its connection.

May live here: what each fault touches, and the questions of chaos about it; no I/O. The promises:
- I/O of which nothing is touched goes on (INV-7): a fault at a site is not felt by a client elsewhere whose
  volume lies elsewhere; faults of managers are not felt at all by a volume that lies at its owner's site
  alone. (What lies at other sites too is served under a lease, which a manager renews through the log.)
  Two faults may meet: a manager that starts begins a new epoch of what it owns, and a site that cannot hear
  of it meanwhile holds the I/O of its clients.
- I/O that is touched waits. It fails only when a disk says so, or after `io_timeout`; with several copies
  only when every copy is hit.
- A volume with several copies goes on elsewhere when one site is down: after the time that a takeover, or
  giving a store up for lost, takes.
- A connection ends only with the export that serves it.
- What was not flushed may be lost only when every copy in sync has lost power; then the next flush of every
  session that wrote it fails. Where two faults meet, the first may have taken a copy out of step, so that
  what the second does to the other one is done to the last.
"""

from drills.layout import Volume
from drills.report import FaultRun

UNAFFECTED_S = 6.0
"""Longest time without an answer of who is not touched: what a busy machine of two processors needs."""
LOAD_PER_PROCESSOR = 4.0
"""With a higher load average than that, waits may be longer in proportion: others use the machine as well."""
RESUMED_S = UNAFFECTED_S + 6.5
"""The same of who is served by another copy: a lease of 4 s runs out (a quarter longer for others), somebody
claims the volume and seals; giving a silent store up for lost takes 5 s and its retirement. The lease of an
export that stands still is not renewed after 3 s."""
TIMEOUT_SHARE = 0.7
"""Of `io_timeout`: what lasted longer may have failed I/O."""

MANAGERS = {"kill-manager", "pause-manager", "kill-leader", "clock-jump"}
RESTARTED = MANAGERS - {"pause-manager"}
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
DOWN = {"kill-site", "pause-site", "power-loss", "kill-export", "kill-store", "pause-store", "kill-manager"}
DOWN |= {"kill-leader", "disk-error", "lost-real-volume", "pause-export"}
"""After these, and a partition from all others, one site serves no more, or not all that it did."""
DISCONNECT = {"kill-export", "kill-site", "power-loss", "lost-real-volume"}


def patience(load: float, processors: int) -> float:
    """By what the times here are to be multiplied on a machine of that load average."""
    return max(1.0, load / (LOAD_PER_PROCESSOR * processors))


def touched(faults: list[FaultRun], volume: Volume, through: str, sites: int) -> list[FaultRun]:
    """Those of `faults` that I/O to `volume` through site `through` may notice, in a cluster of `sites`."""
    leased = volume.sites != {volume.owner}
    if leased and 2 * len({fault.site for fault in faults if fault.fault in MAY_COST_QUORUM}) > sites - 1:
        return faults  # a majority may be missing, and leases run out
    renewed = any(fault.fault in RESTARTED and fault.site == volume.owner for fault in faults)
    if renewed and through != volume.owner and any(_deafens(fault, through) for fault in faults):
        return faults
    return [fault for fault in faults if _touches(fault, volume, through, leased=leased)]


def _deafens(fault: FaultRun, through: str) -> bool:
    """The manager of that site may not hear of new epochs (a cut link may be the one to the leader)."""
    return fault.fault in MANAGERS | LINKS and through in (fault.site, fault.options.get("peer"))


def _touches(fault: FaultRun, volume: Volume, through: str, *, leased: bool) -> bool:
    name, site = fault.fault, fault.site
    if volume.changing or volume.spare:
        return True  # whoever may hold an older map is waited for, until its lease has run out
    serving = {through, volume.owner}
    involved = serving | volume.sites
    if leased and site == volume.owner and name in MAY_COST_QUORUM:
        return True
    if name in MANAGERS:
        return volume.copied and site in involved  # a retirement waits for its lease
    if name in LINKS:
        peer = fault.options.get("peer", "")
        return site in involved and (peer in involved if peer else len(involved) > 1)
    if name in EXPORTS:
        return site in serving
    if name in STORES:
        return site in volume.sites and (volume.owner != site or volume.copied)
    if name in DISKS:
        return fault.options.get("real", "") in volume.reals
    if name == "disk-full":
        return site in volume.sites
    return site in involved


def resumes(faults: list[FaultRun], volume: Volume, through: str, sites: int) -> bool:
    """Whether I/O that is touched must go on all the same while the fault lasts: one site is down, it is not
    the one that the client is attached to, and a copy that lies elsewhere was in sync."""
    if len(volume.copies) < 2 or len(faults) != 1 or sites < 3:
        return False
    fault = faults[0]
    whole = fault.fault == "partition" and not fault.options.get("peer") and not fault.options.get("one_way")
    return (
        (whole or fault.fault in DOWN)
        and fault.site != through
        and any(fault.site not in copy for copy in volume.copies)
    )


def may_fail(faults: list[FaultRun], volume: Volume, io_timeout_s: float) -> bool:
    """Whether an error may be the answer to a request."""
    if any(fault.healed_s - fault.injected_s > io_timeout_s * TIMEOUT_SHARE for fault in faults):
        return True
    bad = [fault for fault in faults if fault.fault in DISKS_FAIL]
    if len(volume.copies) == 1:
        return any(fault.site in volume.sites and _hits(fault, volume) for fault in bad)
    if not (volume.changing or volume.spare):
        bad = [fault for fault in bad if _hits(fault, volume)]
    return _reaches_last(faults, bad, volume)


def may_disconnect(faults: list[FaultRun], through: str) -> bool:
    here = {fault.fault for fault in faults if fault.site == through}
    # A manager that starts replaces an export that does not answer it.
    replaced = here & {"pause-export", "pause-site"} and here & {"kill-manager", "kill-leader", "clock-jump"}
    return bool(here & DISCONNECT or replaced)


def may_lose(faults: list[FaultRun], volume: Volume) -> bool:
    """Whether what was not flushed may be gone: every copy that was in sync has lost power."""
    injected = [fault for fault in faults if fault.injected_s]
    return _reaches_last(injected, [fault for fault in injected if fault.fault == "power-loss"], volume)


def _reaches_last(faults: list[FaultRun], bad: list[FaultRun], volume: Volume) -> bool:
    """Whether one of `bad` may have hit the last copy in sync: it hit one, and some fault all others."""
    touched_sites = {fault.site for fault in faults} | {fault.options.get("peer", "") for fault in faults}
    bad_sites = {fault.site for fault in bad}
    return any(copy & bad_sites for copy in volume.copies) and all(
        copy & touched_sites for copy in volume.copies
    )


def _hits(fault: FaultRun, volume: Volume) -> bool:
    return fault.fault not in ("disk-error", "lost-real-volume") or fault.options["real"] in volume.reals
