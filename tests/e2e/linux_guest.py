"""A real Linux host for tests: Debian's kernel under QEMU, driven from Python.

May live here: starting, talking to and stopping one guest. What it boots is made by `guest_image`.
Keeps: a guest never outlives its test (it powers off when the other end of its channel closes, and
`shutdown` kills what does not); every wait is bounded; nothing but loopback is talked to.

Name the programs of `guest_image.PROGRAMS` by their paths (/sbin/mke2fs): busybox's shell prefers its own
applets to what it finds on PATH.

The host's loopback appears in the guest as 10.0.2.2. Commands travel over a virtio serial port that is a
socket pair on this side, so there is no file or port to collide; the kernel's console goes to a file.
"""

import base64
import itertools
import os
import select
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.e2e.guest_image import GuestError, Kernel, build_initramfs, ensure_kernel

HOST = "10.0.2.2"
"""Where the guest finds the host's loopback."""
MEMORY_MIB = 384
BOOT_KVM_S = 10.0
BOOT_TCG_S = 120.0
ANSWER_MARGIN_S = 15.0
"""How much longer than the command's own limit the host waits for the answer."""
SHUTDOWN_S = 5.0
CONSOLE_TAIL_CHARS = 3_000
MAX_OUTPUT_BYTES = 16 << 20
ACCELERATOR_ENV = "VIMRAFT_GUEST_ACCEL"
"""`tcg` or `kvm`: use only this one. Default: kvm where it works, else tcg."""


class Result(NamedTuple):
    status: int
    """As the shell gives it; 137 when the command was killed at its limit."""
    output: str


class LinuxGuest:
    """One guest. Use as a context manager: `with LinuxGuest(tmp_path) as guest: guest.run("uname -a")`."""

    def __init__(self, work_dir: Path, *, accelerators: Sequence[str] | None = None) -> None:
        self._work_dir = work_dir
        self._accelerators = tuple(accelerators or _usable_accelerators())
        self._console = work_dir / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._received = bytearray()
        self._numbers = itertools.count(1)
        self.accelerator = ""
        """The one that the guest runs on, once started."""
        self.boot_s = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def start(self) -> None:
        """Boots on the first accelerator that works. Raises GuestError."""
        kernel = ensure_kernel()
        initramfs = build_initramfs(kernel, self._work_dir / "initramfs.cpio")
        failures: list[str] = []
        for accelerator in self._accelerators:
            began_s = time.monotonic()
            try:
                self._boot(kernel, initramfs, accelerator)
            except GuestError as error:
                failures.append(str(error))
                self.shutdown()
                continue
            self.accelerator = accelerator
            self.boot_s = time.monotonic() - began_s
            return
        raise GuestError("\n".join(failures))

    def run(self, command: str, timeout_s: float = 60.0) -> Result:
        """Runs `command` in the guest's shell. Raises GuestError when the guest itself fails."""
        if self._channel is None:
            raise GuestError("the guest is not running: call start() first")
        number = next(self._numbers)
        limit_s = max(1, round(timeout_s))
        encoded = base64.b64encode(command.encode()).decode()
        deadline_s = time.monotonic() + limit_s + ANSWER_MARGIN_S
        self._channel.sendall(f"{number} {limit_s} {encoded}\n".encode())
        answer = self._read_line(deadline_s).split()
        if len(answer) != 3 or int(answer[0]) != number:
            raise self._failure(f"the guest answered {answer!r} to request {number}")
        size_bytes = int(answer[2])
        if size_bytes > MAX_OUTPUT_BYTES:
            raise self._failure(f"{command!r} printed {size_bytes} bytes, more than {MAX_OUTPUT_BYTES}")
        return Result(int(answer[1]), self._read(size_bytes, deadline_s).decode(errors="replace"))

    def check(self, command: str, timeout_s: float = 60.0) -> str:
        """Runs `command`, which must succeed; returns what it printed. Raises GuestError."""
        result = self.run(command, timeout_s)
        if result.status != 0:
            raise self._failure(f"exit status {result.status} from the guest's\n{command}\n{result.output}")
        return result.output

    def shutdown(self) -> None:
        """Ends the guest, however it is. Safe to call twice."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self._received.clear()
        if self._process is not None:
            # The guest powers off by itself when it reads the end of its channel; if it hangs in the
            # middle of something, nothing in it is worth waiting for.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SHUTDOWN_S)
            self._process.kill()
            self._process.wait()
            self._process = None

    def console(self) -> str:
        """The last lines of the kernel's console."""
        if not self._console.exists():
            return ""
        return self._console.read_text(errors="replace")[-CONSOLE_TAIL_CHARS:]

    def _boot(self, kernel: Kernel, initramfs: Path, accelerator: str) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        log = self._work_dir / "qemu.log"
        with theirs, log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    self._command(kernel, initramfs, accelerator, theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            except FileNotFoundError:
                raise GuestError("qemu-system-x86_64 is not there: install qemu-system-x86") from None
        limit_s = BOOT_KVM_S if accelerator == "kvm" else BOOT_TCG_S
        try:
            word = self._read_line(time.monotonic() + limit_s)
        except GuestError as error:
            raise GuestError(f"boot under {accelerator}: {error}\n{log.read_text()}") from None
        if word != "ready":
            raise self._failure(f"boot under {accelerator}: first word was {word!r}")

    def _command(self, kernel: Kernel, initramfs: Path, accelerator: str, channel_fd: int) -> list[str]:
        return [
            "qemu-system-x86_64",
            *("-accel", accelerator, "-cpu", "max", "-m", f"{MEMORY_MIB}M", "-smp", "1"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-kernel", str(kernel.vmlinuz), "-initrd", str(initramfs)),
            *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
            *("-serial", f"file:{self._console}"),
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-chardev", f"socket,id=channel,fd={channel_fd}", "-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=channel,name=channel"),
        ]

    def _read_line(self, deadline_s: float) -> str:
        while b"\n" not in self._received:
            self._receive(deadline_s)
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line.decode(errors="replace")

    def _read(self, size_bytes: int, deadline_s: float) -> bytes:
        while len(self._received) < size_bytes:
            self._receive(deadline_s)
        data = bytes(self._received[:size_bytes])
        del self._received[:size_bytes]
        return data

    def _receive(self, deadline_s: float) -> None:
        if self._channel is None:
            raise GuestError("the guest is not running")
        left_s = max(0.0, deadline_s - time.monotonic())
        readable, _, _ = select.select([self._channel], [], [], left_s)
        if not readable:
            raise self._failure("the guest did not answer in time")
        data = self._channel.recv(1 << 16)
        if not data:
            raise self._failure("the guest ended")
        self._received += data

    def _failure(self, what: str) -> GuestError:
        return GuestError(f"{what}\n--- the guest's console ends with:\n{self.console()}")


def _usable_accelerators() -> tuple[str, ...]:
    chosen = os.environ.get(ACCELERATOR_ENV, "")
    if chosen:
        return (chosen,)
    return ("kvm", "tcg") if os.access("/dev/kvm", os.R_OK | os.W_OK) else ("tcg",)
