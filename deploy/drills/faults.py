"""The commands of deploy/faults: every fault by name, and `NAME inject|heal|status`, `list`.

May live here: the table of faults, the command line, and the order of record, effect and healing.
Keeps: a fault in the foreground (--hold, --seconds) is healed however its process ends, short of SIGKILL, and
then `NAME heal` of any other process does it.
"""

import argparse
import contextlib
import datetime
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from drills.clock import ClockJump
from drills.clusters import ApiProblem, Cluster, default_directory
from drills.disks import DiskFull, LostReal, TracedDisk
from drills.fault import Asked, Fault
from drills.kills import Kill, KillLeader, Pause, PowerLoss
from drills.links import Partition, SlowLink
from drills.processes import DrillError
from drills.record import Record, Records

ALL = ("manager", "export", "store")
FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Kill(
            "kill-manager", ("manager",), "SIGKILL to the manager; export and store serve on; heal starts it"
        ),
        Pause("pause-manager", ("manager",), "SIGSTOP to the manager; heal continues it"),
        Kill("kill-export", ("export",), "SIGKILL to what clients attach to; its manager starts it again"),
        Pause("pause-export", ("export",), "SIGSTOP to what clients attach to"),
        Kill("kill-store", ("store",), "SIGKILL to what owners at other sites talk to; started again"),
        Pause("pause-store", ("store",), "SIGSTOP to what owners at other sites talk to"),
        KillLeader(
            "kill-leader", ("manager",), "SIGKILL to the manager that leads the log (no --site needed)"
        ),
        Kill("kill-site", ALL, "SIGKILL to manager, export and store; heal starts the site"),
        Pause("pause-site", ALL, "SIGSTOP to manager, export and store"),
        Partition(),
        SlowLink(),
        TracedDisk(
            "slow-disk",
            "each call on a real volume's file takes --delay-ms longer (strace; --real)",
            frozenset({"real", "delay_ms"}),
        ),
        TracedDisk(
            "disk-error",
            "calls on a real volume's file fail with EIO: all, or one of --every N (strace; --real)",
            frozenset({"real", "every"}),
        ),
        DiskFull(),
        LostReal(),
        ClockJump(),
        PowerLoss(
            "power-loss",
            ALL,
            "all of a site dies at once, and its file system with what was not synced (netns-cluster; on "
            "loopback the page cache survives, so only crash and restart are shown)",
        ),
    )
}
OPTIONS = {
    "peer": ("--peer", {"metavar": "SITE", "default": "", "help": "only the link to this site"}),
    "one_way": ("--one-way", {"action": "store_true", "help": "only what --site sends is lost"}),
    "real": ("--real", {"metavar": "STORAGE:LUN", "default": "", "help": "default: the site's first"}),
    "delay_ms": ("--delay-ms", {"type": int, "metavar": "N", "default": 0}),
    "every": ("--every", {"type": int, "metavar": "N", "default": 0, "help": "one call of N; default: all"}),
    "by_s": ("--by", {"type": int, "metavar": "SECONDS", "default": 0, "help": "default: 3600"}),
}
MAX_HOLD_S = 86_400.0
HOLD_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Undone(DrillError):
    """It could not be injected wholly, and what had been done was healed: it may have been felt."""


def inject(cluster: Cluster, name: str, asked: Asked) -> Record:
    """Raises DrillError; then nothing is left in force (`Undone`: but it was)."""
    fault, records = FAULTS[name], Records(cluster.directory)
    with records.locked():
        site, details = fault.prepare(cluster, asked)
        if records.all(name, site):
            raise DrillError(
                f"{name} at {site} is in force already; `deploy/faults/{name} heal --site {site}` first"
            )
        record = Record(name, site, time.time(), details)
        records.save(record)
        try:
            fault.apply(cluster, record)
        except BaseException as error:
            # A record that cannot be healed either stays, so that `heal` can be repeated.
            fault.heal(cluster, record)
            records.remove(record)
            if isinstance(error, DrillError):
                raise Undone(str(error)) from None
            raise
    return record


def heal(cluster: Cluster, name: str = "", site: str = "") -> list[Record]:
    """What was healed: the newest first, since a later fault may hide an earlier one. Raises DrillError after
    everything that can be healed was."""
    records = Records(cluster.directory)
    healed: list[Record] = []
    problems: list[str] = []
    with records.locked():
        for record in reversed(records.all(name, site)):
            try:
                FAULTS[record.fault].heal(cluster, record)
            except (DrillError, ApiProblem, OSError) as error:
                problems.append(f"{record.title}: {error}")
                continue
            records.remove(record)
            healed.append(record)
    if problems:
        raise DrillError("not healed: " + "; ".join(problems))
    return healed


@contextlib.contextmanager
def held(cluster: Cluster, name: str, asked: Asked) -> Iterator[Record]:
    """In force inside the block, healed after it."""
    record = inject(cluster, name, asked)
    try:
        yield record
    finally:
        heal(cluster, name, record.site)


def main(name: str, arguments: list[str]) -> int:
    """Exit code 0, 1 for what could not be done, 2 for a bad use."""
    try:
        return _list(arguments) if name == "list" else _fault(FAULTS[name], arguments)
    except (DrillError, ApiProblem) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    except PermissionError as error:
        sys.stderr.write(f"{name}: {error}; faults need root\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _fault(fault: Fault, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=fault.name, description=fault.summary, allow_abbrev=False)
    parser.add_argument("action", choices=("inject", "heal", "status"))
    parser.add_argument("--site", metavar="SITE", default="", help="where; heal and status: default all")
    _add_directory(parser)
    parser.add_argument("--hold", action="store_true", help="stay until interrupted, then heal")
    parser.add_argument("--seconds", type=float, metavar="N", default=0.0, help="as --hold, for so long")
    for key in sorted(fault.takes):
        flag, settings = OPTIONS[key]
        parser.add_argument(flag, dest=key, **settings)  # type: ignore[arg-type]
    options = parser.parse_args(arguments)
    if not 0 <= options.seconds <= MAX_HOLD_S:
        parser.error(f"--seconds {options.seconds}: 0 to {MAX_HOLD_S:.0f}")
    cluster = Cluster(options.dir)
    if options.action == "inject":
        asked = Asked(site=options.site, **{key: getattr(options, key) for key in fault.takes})
        if options.hold or options.seconds:
            return _hold(cluster, fault, asked, options.seconds)
        record = inject(cluster, fault.name, asked)
        print(f"injected {record.title}: {fault.effect(cluster, record)}")
        return 0
    if options.site:
        cluster[options.site]  # an unknown name is an error, not «nothing»
    if options.action == "heal":
        healed = heal(cluster, fault.name, options.site)
        for record in healed:
            print(f"healed {record.title}")
        if not healed:
            print(f"{fault.name} is not in force")
        return 0
    found = Records(cluster.directory).all(fault.name, options.site)
    for record in found:
        print(f"{record.title} since {_clock(record)}: {fault.effect(cluster, record)}")
    if not found:
        print(f"{fault.name} is not in force")
    return 0


def _hold(cluster: Cluster, fault: Fault, asked: Asked, seconds: float) -> int:
    ended = threading.Event()
    for number in HOLD_SIGNALS:
        signal.signal(number, lambda _number, _frame: ended.set())
    with held(cluster, fault.name, asked) as record:
        print(f"holding {record.title}: {fault.effect(cluster, record)}", flush=True)
        ended.wait(seconds or None)
    print(f"healed {record.title}", flush=True)
    return 0


def _list(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="list", description="The faults, and those in force.")
    _add_directory(parser)
    parser.add_argument("--injected", action="store_true", help="only what is in force now")
    parser.add_argument("--heal-all", action="store_true", help="heal everything that is in force")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.heal_all:
        for record in heal(Cluster(options.dir)):
            print(f"healed {record.title}")
    try:
        records = Records(Cluster(options.dir).directory).all()
    except DrillError:
        if options.injected:
            raise
        records = []
    if options.json:
        in_force = [{"fault": r.fault, "site": r.site, "injected_s": r.injected_s} for r in records]
        print(json.dumps({"faults": {f.name: f.summary for f in FAULTS.values()}, "in_force": in_force}))
        return 0
    if not options.injected and not options.heal_all:
        for fault in FAULTS.values():
            print(f"{fault.name:18}{fault.summary}")
    for record in records:
        print(f"in force: {record.title} since {_clock(record)}")
    return 0


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        default=default_directory(),
        help="the cluster's directory (%(default)s)",
    )


def _clock(record: Record) -> str:
    at = datetime.datetime.fromtimestamp(record.injected_s, tz=datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
