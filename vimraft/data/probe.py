"""What a device already carries, before anybody overwrites it.

May live here: looking only. blkid (util-linux, on every Debian) knows the signatures; files and devices
are shown to it as they are, NBD exports as a sparse copy in memory of their first and last MiB.
"""

import os
import shutil
import subprocess

from vimraft.data.backends.base import ZERO, Backend, BackendError
from vimraft.data.label import read_label

EDGE_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16
MAX_SAMPLES = 64
BLKID_TIMEOUT_S = 30.0
BLKID_FOUND, BLKID_NOTHING, BLKID_SEVERAL = 0, 2, 8
BLKID_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"

IMAGE_FORMATS = (
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"KDMV", "a VMDK disk image"),
    (b"vhdxfile", "a VHDX disk image"),
    (b"conectix", "a VHD disk image"),
    (b"QED\0", "a QED disk image"),
)
"""Containers, which libblkid does not know: found at byte 0."""


def probe(backend: Backend) -> str:
    """'' when it looks blank, otherwise what is there, as the object of 'it carries …'.
    Raises OSError when it cannot be read."""
    try:
        label = read_label(backend)
    except BackendError as error:
        if error.kind != "label":
            raise
        return "a damaged or contradictory vimraft label"
    if label is not None:
        return f"the label of {label}"
    head = _read(backend, 0, min(EDGE_BYTES, backend.size_bytes))
    for magic, name in IMAGE_FORMATS:
        if head.startswith(magic):
            return name
    return _signature(backend, head) or _content(backend)


def _read(backend: Backend, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    if length:
        backend.read_into(memoryview(buffer), offset)
    return bytes(buffer)


def _signature(backend: Backend, head: bytes) -> str:
    if backend.fd >= 0:
        return _blkid(backend.fd)
    copy = os.memfd_create("vimraft-probe", os.MFD_CLOEXEC)
    try:
        os.truncate(copy, backend.size_bytes)
        os.pwrite(copy, head, 0)
        tail = max(len(head), backend.size_bytes - EDGE_BYTES)
        os.pwrite(copy, _read(backend, tail, backend.size_bytes - tail), tail)
        return _blkid(copy)
    finally:
        os.close(copy)


def _blkid(fd: int) -> str:
    tool = shutil.which("blkid", path=BLKID_PATH)
    if tool is None:
        raise BackendError("missing", "blkid is not there; install it with: apt-get install util-linux")
    command = [tool, "--probe", "--output", "export", f"/proc/self/fd/{fd}"]
    try:
        result = subprocess.run(
            command, pass_fds=(fd,), capture_output=True, timeout=BLKID_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BackendError(
            "io", f"blkid did not answer within {BLKID_TIMEOUT_S:.0f} s; check the device"
        ) from None
    if result.returncode == BLKID_SEVERAL:
        return "signatures of several kinds of content"
    if result.returncode != BLKID_FOUND:
        return ""
    found = dict(
        line.split("=", 1) for line in result.stdout.decode("utf-8", "replace").splitlines() if "=" in line
    )
    if "TYPE" in found:
        name = f" named {found['LABEL']!r}" if found.get("LABEL") else ""
        what = {"filesystem": "file system", "crypto": "encrypted volume", "raid": "RAID or LVM member"}
        return f"{found['TYPE']} ({what.get(found.get('USAGE', ''), 'content')}){name}"
    if "PTTYPE" in found:
        return f"a partition table ({found['PTTYPE']})"
    return ""


def _content(backend: Backend) -> str:
    """Any byte that is not zero, in samples of what is not known to be a hole."""
    for offset, length in _samples(backend):
        block = _read(backend, offset, length)
        if block.count(0) != length:
            at = offset + next(position for position, byte in enumerate(block) if byte)
            return f"data (byte {at} is not zero)"
    return ""


def _samples(backend: Backend) -> list[tuple[int, int]]:
    """Beginning, end and evenly spread pieces of what may be data, in order; a bounded number."""
    data: list[tuple[int, int]] = []
    position = 0
    for length, bits in backend.extents(0, backend.size_bytes):
        if not bits & ZERO:
            data.append((position, position + length))
        position += length
    stride = max(SAMPLE_BYTES, sum(end - start for start, end in data) // MAX_SAMPLES)
    pieces: list[tuple[int, int]] = []
    for start, end in data:
        pieces += [(at, min(SAMPLE_BYTES, end - at)) for at in range(start, end, stride)]
        pieces.append((max(start, end - SAMPLE_BYTES), min(SAMPLE_BYTES, end - start)))
    every = -(-len(pieces) // (4 * MAX_SAMPLES))
    return pieces[:: max(1, every)]
