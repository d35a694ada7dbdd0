"""Processes of a cluster, told by pid, start time and command line together.

May live here: finding and signalling. Keeps: a signal goes through a pidfd that was opened before the
identity was compared, so a pid that was given to something else since is never hit.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.02
STOPPED = ("T", "t")
GONE = ("Z", "X")
KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "HOME", "LD_PRELOAD")
"""What a process that is started again gets of its former environment."""


class DrillError(Exception):
    """Names the thing, the cause and the remedy."""


class Identity(NamedTuple):
    pid: int
    started: int
    """In clock ticks since boot, as in /proc/PID/stat."""
    command: tuple[str, ...]


def identify(pid: int, *marks: str) -> Identity | None:
    """The living process `pid` if each of `marks` is a part of an argument of its command line."""
    try:
        state, started = _state(pid)
        command = tuple(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    except (OSError, IndexError, ValueError):
        return None
    if state in GONE or not all(any(mark in word for word in command) for mark in marks):
        return None
    return Identity(pid, started, command)


def is_alive(process: Identity) -> bool:
    try:
        state, started = _state(process.pid)
    except (OSError, IndexError, ValueError):
        return False
    return started == process.started and state not in GONE


def is_stopped(process: Identity) -> bool:
    try:
        return _state(process.pid)[0] in STOPPED and is_alive(process)
    except (OSError, IndexError, ValueError):
        return False


def send(process: Identity, number: signal.Signals) -> bool:
    """False: it is gone (its pid may be somebody else's by now)."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if identify(process.pid) != process:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def end(process: Identity, number: signal.Signals, limit_s: float) -> None:
    """Signals it and waits until it is gone. Raises DrillError."""
    send(process, number)
    deadline_s = time.monotonic() + limit_s
    while is_alive(process):
        if time.monotonic() > deadline_s:
            raise DrillError(
                f"process {process.pid} ({' '.join(process.command)[:120]}) is still there {limit_s:.0f} s "
                f"after {number.name}; look at /proc/{process.pid}/stack"
            )
        time.sleep(POLL_S)


def environment(process: Identity) -> dict[str, str]:
    """What its successor is to have of its environment; empty when it is gone."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
        pairs = dict(word.split("=", 1) for word in words if "=" in word)
        return {k: v for k, v in pairs.items() if k in KEPT_ENVIRONMENT or k.startswith("FAKETIME")}
    return {}


def from_list(words: Sequence[object]) -> Identity:
    """As JSON gives it back."""
    pid, started, command = words
    assert isinstance(pid, int)
    assert isinstance(started, int)
    assert isinstance(command, list | tuple)
    return Identity(pid, started, tuple(map(str, command)))


def _state(pid: int) -> tuple[str, int]:
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    return fields[0], int(fields[19])
