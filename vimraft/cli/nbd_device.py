"""The kernel's NBD client on this host: /dev/nbdN, nbd-client, and who uses what.

May live here: everything that touches sysfs, /dev, /proc and nbd-client. A `Machine` takes the root of the
file system and the search path, so that tests give it a small tree and a script in place of nbd-client.

Keeps INV-3 on the way out: a device is flushed, exclusively open, before it is disconnected, and never
disconnected while something on this host uses it.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vimraft.api.caller_errors import (
    DeviceInUse,
    DeviceStuck,
    FlushFailed,
    NeedsRoot,
    NoFreeDevice,
    NoNbdModule,
    NotAttached,
    NotInstalled,
    ToolFailed,
)

TOOL_LIMIT_S: Final = 120.0
SETTLE_LIMIT_S: Final = 10.0
SETTLE_STEP_S: Final = 0.02
HOLD_TIMEOUT_S: Final = 86_400
_DEVICE = re.compile(r"(?:/dev/)?(nbd[0-9]+)", re.ASCII)


class Attachment(Struct, frozen=True):
    """What `attach` remembers (in /run, so until the next boot) about a device."""

    device: str
    """nbd0"""
    volume: str
    uri: str
    pid: str
    """What the kernel showed as the client's pid: another value means another attachment."""


def connect_command(
    *, host: str, port: int, export: str, device: str, connections: int, block_bytes: int, read_only: bool
) -> list[str]:
    """nbd-client's arguments, chosen so that the kernel holds I/O rather than drops it.

    - No `-persist` and no `-nonetlink`: the kernel itself owns the sockets. The ioctl mode with -persist
      tears the queue down when a connection ends and can then answer reads with nothing read.
    - One connection, no `-timeout`: the kernel then never gives up on a slow request, it only logs it.
      The site bounds every hold itself (io_timeout) and answers with an error it can account for.
    - Several connections need a `-timeout` far above any hold: without one the kernel takes its queue's
      30 s, declares the connection dead and *repeats the request on another one*, while the site may still
      carry out the first: a late write could then overtake a newer one.
    - `-b 512`: the sector of the volume and of every other way to attach. With 4096 a partition table or an
      ext4 with 1 KiB blocks made elsewhere could not be read here.
    """
    command = ["nbd-client", host, str(port), device, "-N", export, "-b", str(block_bytes)]
    if connections > 1:
        command += ["-C", str(connections), "-timeout", str(HOLD_TIMEOUT_S)]
    if read_only:
        command.append("-readonly")
    return command


def device_name(text: str) -> str | None:
    """`/dev/nbd3` or `nbd3` → `nbd3`; None for anything else."""
    match = _DEVICE.fullmatch(text)
    return None if match is None else match.group(1)


class Machine:
    def __init__(
        self, root: Path = Path("/"), *, path: str | None = None, privileged: bool | None = None
    ) -> None:
        self._block = root / "sys/block"
        self._module = root / "sys/module/nbd"
        self._dev = root / "dev"
        self._proc = root / "proc"
        self._run = root / "run/vimraft"
        self._path = path or f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        self.privileged = os.geteuid() == 0 if privileged is None else privileged

    # -- looking -----------------------------------------------------------------------------------

    def has_module(self) -> bool:
        return self._module.is_dir()

    def devices(self) -> list[str]:
        found = (path.name for path in self._block.glob("nbd*") if device_name(path.name) is not None)
        return sorted(found, key=lambda name: int(name[3:]))

    def is_connected(self, device: str) -> bool:
        return (self._block / device / "pid").exists()

    def free_device(self) -> str | None:
        return next((d for d in self.devices() if not self.is_connected(d)), None)

    def device_path(self, device: str) -> Path:
        return self._dev / device

    def users(self, device: str) -> list[str]:
        """Mount points, swap areas and holders (LVM, RAID, dm) of the device and its partitions."""
        disks = [self._block / device, *sorted((self._block / device).glob(f"{device}p*"))]
        names = {disk.name for disk in disks}
        numbers = {number for disk in disks if (number := _read(disk / "dev"))}
        found = []
        for line in _read(self._proc / "self/mountinfo").splitlines():
            fields = line.split(" ")
            source = fields[fields.index("-") + 2] if "-" in fields else ""
            if len(fields) > 4 and (fields[2] in numbers or source.removeprefix("/dev/") in names):
                found.append(_unescape(fields[4]))
        for line in _read(self._proc / "swaps").splitlines()[1:]:
            if line.split(None, 1)[0].removeprefix("/dev/") in names:
                found.append("swap")
        for disk in disks:
            found += [f"device {holder.name}" for holder in sorted(disk.glob("holders/*"))]
        return found

    def attachments(self) -> list[Attachment]:
        """What was attached by us and still is; records of detached or reused devices do not count."""
        found = []
        for path in sorted((self._run / "attached").glob("nbd*.json")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Attachment)
            except (OSError, msgspec.MsgspecError):
                continue  # being written or removed right now, or torn by a crash: then it is not known
            if self.is_connected(record.device) and _read(self._block / record.device / "pid") == record.pid:
                found.append(record)
        return found

    # -- changing ----------------------------------------------------------------------------------

    def load_module(self, uri: str) -> None:
        """Raises NoNbdModule."""
        if self.has_module():
            return
        tool = shutil.which("modprobe", path=self._path)
        if tool is None:
            raise NoNbdModule(uri, "and no modprobe to load it")
        if not self.privileged:
            raise NoNbdModule(uri, "it is not loaded, and loading it needs root: sudo modprobe nbd")
        done = self._tool([tool, "nbd"])
        if done.returncode != 0 or not self.has_module():
            raise NoNbdModule(uri, (done.stderr or done.stdout).strip() or "modprobe nbd did nothing")

    def attach(
        self, volume: str, uri: str, device: str | None, command: Callable[[str], Sequence[str]]
    ) -> str:
        """Connect a device (`device`, or the first free one) with `command(path)`; its path.

        Raises NotInstalled, NeedsRoot, NoFreeDevice, DeviceInUse, ToolFailed, DeviceStuck.
        """
        if not self.privileged:
            raise NeedsRoot(f"attaching {volume} as a block device")
        with self._locked():
            chosen = device or self.free_device()
            if chosen is None:
                raise NoFreeDevice(len(self.devices()))
            if self.is_connected(chosen):
                known = [f"volume {a.volume}" for a in self.attachments() if a.device == chosen]
                raise DeviceInUse(str(self.device_path(chosen)), known, "attached")
            path = str(self.device_path(chosen))
            arguments = list(command(path))
            self._must(arguments)
            self._settle(chosen, connected=True)
            pid = _read(self._block / chosen / "pid")
            self._remember(Attachment(device=chosen, volume=volume, uri=uri, pid=pid))
            return path

    def find(self, name: str) -> str:
        """The device of a volume's or device's name. Raises NotAttached, DeviceInUse (several)."""
        device = device_name(name)
        attached = self.attachments()
        shown = [f"{a.volume} at /dev/{a.device}" for a in attached]
        if device is not None:
            if not self.is_connected(device):
                raise NotAttached(f"/dev/{device}", shown)
            return device
        matches = [a.device for a in attached if a.volume == name]
        if not matches:
            raise NotAttached(name, shown)
        if len(matches) > 1:
            raise DeviceInUse(f"volume {name}", [f"/dev/{d}" for d in matches], "detached (name one device)")
        return matches[0]

    def detach(self, device: str, *, force: bool = False) -> None:
        """Flush and disconnect. `force` gives up what cannot be flushed, never what is in use.

        Raises NeedsRoot, DeviceInUse, FlushFailed, NotInstalled, ToolFailed, DeviceStuck.
        """
        path = self.device_path(device)
        if not self.privileged:
            raise NeedsRoot(f"detaching {path}")
        with self._locked():
            users = self.users(device)
            if users:
                raise DeviceInUse(str(path), users, "detached")
            # Held exclusively over the disconnect: nothing can mount it in between, in no mount namespace.
            fd = self._open_exclusively(path, force=force)
            try:
                if fd is not None:
                    _flush(fd, path, force=force)
                self._must(["nbd-client", "-d", str(path)])
            finally:
                if fd is not None:
                    os.close(fd)
            self._settle(device, connected=False)
            (self._run / "attached" / f"{device}.json").unlink(missing_ok=True)

    # -- helpers -----------------------------------------------------------------------------------

    def _open_exclusively(self, path: Path, *, force: bool) -> int | None:
        for flags in (os.O_RDWR, os.O_RDONLY):  # a read-only device refuses the first
            try:
                return os.open(path, flags | os.O_EXCL | os.O_CLOEXEC)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise DeviceInUse(str(path), [], "detached") from None
                if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and flags == os.O_RDWR:
                    continue
                if force:
                    return None
                raise FlushFailed(str(path), error.strerror or str(error)) from None
        return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One attach or detach at a time on this host: two would choose the same free device."""
        self._run.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._run / "attach.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _tool(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TOOL_LIMIT_S, errors="replace",
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ToolFailed(command, -1, f"no end within {TOOL_LIMIT_S:g} s") from None

    def _must(self, command: Sequence[str]) -> None:
        tool = shutil.which(command[0], path=self._path)
        if tool is None:
            raise NotInstalled(command[0], "the package nbd-client (apt install nbd-client)")
        done = self._tool([tool, *command[1:]])
        if done.returncode != 0:
            raise ToolFailed(command, done.returncode, done.stderr or done.stdout)

    def _settle(self, device: str, *, connected: bool) -> None:
        """nbd-client may return before sysfs shows what it did."""
        started_s = time.monotonic()
        while self.is_connected(device) != connected:
            waited_s = time.monotonic() - started_s
            if waited_s > SETTLE_LIMIT_S:
                expected = "connected" if connected else "disconnected"
                raise DeviceStuck(str(self.device_path(device)), expected, waited_s)
            time.sleep(SETTLE_STEP_S)

    def _remember(self, attachment: Attachment) -> None:
        directory = self._run / "attached"
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / f".{attachment.device}.new"
        new.write_bytes(msgspec.json.encode(attachment))
        new.replace(directory / f"{attachment.device}.json")


def _flush(fd: int, path: Path, *, force: bool) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if not force:
            raise FlushFailed(str(path), error.strerror or str(error)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return ""  # gone in the meantime, or this kernel does not have it


def _unescape(text: str) -> str:
    """mountinfo writes blanks as \\040 and so on."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), text)
