"""The label of a real volume: which cluster, which LUN, and how much of it may be used.

May live here: the format, reading, writing and comparing it. It fills the reserved first MiB: two
copies, at 0 and at 512 KiB, so that one torn or unreadable block does not lose it; the rest is zeros.

A copy is a 4 KiB block: MAGIC, then (version, length of the body, CRC32 of all that follows MAGIC with
the CRC field zero), then the body as JSON, so that `head -c 4096 DEVICE` tells a person what it is.
INV-5, INV-6: a device whose label is not the one in the tables is never read or written for a volume.
"""

import struct
import zlib

import msgspec
from msgspec import Struct

from vimraft.core.ids import LABEL_BYTES
from vimraft.data.backends.base import Backend, BackendError
from vimraft.data.feed import BackendSpec

MAGIC = b"vimraft label\n\0\0"
FORMAT_VERSION = 1
COPY_BYTES = 4_096
COPY_OFFSETS = (0, LABEL_BYTES // 2)
_HEADER = struct.Struct(">III")
_BODY_AT = len(MAGIC) + _HEADER.size


class Label(Struct, frozen=True):
    cluster_id: str
    label_id: str
    real: str
    """'storage:lun'"""
    capacity_bytes: int
    """Usable bytes after the label."""
    created_ms: int

    def __str__(self) -> str:
        return f"real volume {self.real} of vimraft cluster {self.cluster_id} (label {self.label_id})"


_decoder = msgspec.json.Decoder(Label)


def encode_label(label: Label) -> bytes:
    body = msgspec.json.encode(label)
    if _BODY_AT + len(body) > COPY_BYTES:
        raise ValueError(f"label of {len(body)} bytes does not fit into {COPY_BYTES - _BODY_AT}")
    crc = _checksum(FORMAT_VERSION, body)
    block = MAGIC + _HEADER.pack(FORMAT_VERSION, len(body), crc) + body
    return block.ljust(COPY_BYTES, b"\0")


def _checksum(version: int, body: bytes) -> int:
    return zlib.crc32(_HEADER.pack(version, len(body), 0) + body)


class _Damaged(Struct, frozen=True):
    why: str


def decode_label(block: bytes) -> Label | _Damaged | None:
    """None: no label was ever here."""
    if not block.startswith(MAGIC):
        return None
    version, length, crc = _HEADER.unpack_from(block, len(MAGIC))
    if version != FORMAT_VERSION:
        return _Damaged(f"is of format {version}, this release reads {FORMAT_VERSION}")
    body = block[_BODY_AT : _BODY_AT + length]
    if len(body) != length or _checksum(version, body) != crc:
        return _Damaged("has a wrong checksum")
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        return _Damaged(f"cannot be understood ({error})")


def _read_copy(backend: Backend, offset: int) -> Label | _Damaged | OSError | None:
    block = bytearray(COPY_BYTES)
    try:
        backend.read_into(memoryview(block), offset)
    except OSError as error:
        return error
    return decode_label(bytes(block))


def read_label(backend: Backend) -> Label | None:
    """None: no label. Raises BackendError: "label" if none of the copies can be trusted or they
    contradict each other, "io" if the device cannot be read."""
    if backend.size_bytes < LABEL_BYTES:
        return None
    copies = [_read_copy(backend, offset) for offset in COPY_OFFSETS]
    labels = [copy for copy in copies if isinstance(copy, Label)]
    if labels:
        if any(label != labels[0] for label in labels):
            raise BackendError(
                "label",
                f"{backend.uri}: its two labels contradict each other: {' / '.join(map(str, labels))}; "
                "prepare it again with --force if its data are not needed",
            )
        return labels[0]
    for copy in copies:
        if isinstance(copy, OSError):
            message = f"{backend.uri}: the label cannot be read: {copy.strerror}; check the device"
            raise BackendError("io", message)
    for copy in copies:
        if isinstance(copy, _Damaged):
            raise BackendError(
                "label",
                f"{backend.uri}: the label {copy.why} and no copy of it is good; restore the first MiB "
                "from a backup, or prepare it again with --force if its data are not needed",
            )
    return None


def write_label(backend: Backend, label: Label) -> None:
    """Write both copies, flush, read back. Raises OSError, or BackendError("io") if what is read
    differs from what was written."""
    block = encode_label(label)
    for offset in reversed(COPY_OFFSETS):
        backend.write(memoryview(block), offset, fua=False)
        backend.flush()
    for offset in COPY_OFFSETS:
        found = bytearray(COPY_BYTES)
        backend.read_into(memoryview(found), offset)
        if found != block:
            message = f"{backend.uri}: the label written at byte {offset} reads back differently; replace it"
            raise BackendError("io", message)


def verify_label(backend: Backend, spec: BackendSpec) -> Label:
    """Raises BackendError unless this is the real volume that the tables mean."""
    label = read_label(backend)
    where = f"real volume {spec.real} at {backend.uri}"
    if label is None:
        raise BackendError(
            "label",
            f"{where}: carries no vimraft label (expected {spec.label_id}); check that the right device "
            "is attached there",
        )
    if label.cluster_id != spec.cluster_id:
        raise BackendError(
            "label",
            f"{where}: belongs to vimraft cluster {label.cluster_id}, not to {spec.cluster_id}; "
            "attach the right device",
        )
    if label.label_id != spec.label_id:
        raise BackendError(
            "label",
            f"{where}: carries the label {label.label_id} of real volume {label.real}, expected "
            f"{spec.label_id}; devices were exchanged, or it was prepared anew: attach the right one",
        )
    usable = backend.size_bytes - LABEL_BYTES
    if usable < spec.capacity_bytes:
        raise BackendError(
            "label",
            f"{where}: has {usable} bytes after its label, the tables say {spec.capacity_bytes}; "
            "it was shortened: restore its size",
        )
    return label


def destroy_label(backend: Backend) -> None:
    """Zero the whole reserved MiB, durably."""
    backend.zero(0, min(LABEL_BYTES, backend.size_bytes), may_trim=False, fua=False, fast=False)
    backend.flush()
