"""Which node this is, of which cluster, in which life of that cluster: identity.json.

May live here: that file. It is the *last* file of a first start: where it is, the journal must be too; so
a directory that lost its journal is never taken for a new one, and a wiped disk comes back as a node with
another id, whom the others refuse until the old one has been removed (a node that forgot its votes and
entries would break both promises).
"""

import uuid
import zlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from vimraft.metadata.pysyncobj.disk import Disk, read_whole, write_durably
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData

IDENTITY: Final = "identity.json"
FIRST_GENERATION: Final = 1
_CLUSTERS: Final = uuid.UUID("3c7f6f0e-35a4-5d53-8f0a-6c2f1f0d9b7e")


class Identity(Struct, frozen=True):
    node_id: str
    cluster: str
    """"": this node was told to join a cluster and has not met it yet (see `adopt`)."""
    generation: int = FIRST_GENERATION
    """+1 whenever the cluster went on from a copy of its tables, leaving members behind."""

    @property
    def stamp(self) -> bytes:
        """What the journal carries. By the node alone: cluster and generation may be learnt later."""
        return uuid.UUID(self.node_id).bytes


class _Content(Identity, frozen=True, forbid_unknown_fields=True):
    check: int = 0
    """CRC32 of the rest."""


def _check(identity: Identity) -> int:
    return zlib.crc32(msgspec.json.encode(identity))


def cluster_of(first_members: Iterable[str]) -> str:
    """The same at each of those who form a cluster together, without asking each other."""
    return str(uuid.uuid5(_CLUSTERS, "\n".join(sorted(set(first_members)))))


def make(first_members: Iterable[str], *, forming: bool = True) -> Identity:
    """A new node. `forming`: it is one of `first_members`; otherwise it joins their cluster, whose id only
    they know, since members may have come and gone."""
    return Identity(str(uuid.uuid4()), cluster_of(first_members) if forming else "")


def load(disk: Disk) -> Identity | None:
    """None when there is no file. Raises CorruptData, OSError."""
    data = read_whole(disk, IDENTITY)
    if data is None:
        return None
    try:
        content = msgspec.json.decode(data, type=_Content)
        identity = Identity(content.node_id, content.cluster, content.generation)
        if _check(identity) != content.check:
            raise ValueError("damaged (checksum)")
        uuid.UUID(identity.node_id)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptData(f"{disk.describe(IDENTITY)}: not an identity: {error}. {REMEDY}") from None
    return identity


def save(disk: Disk, identity: Identity) -> None:
    """Raises OSError; then the old one is still there."""
    content = _Content(identity.node_id, identity.cluster, identity.generation, _check(identity))
    write_durably(disk, IDENTITY, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


def load_or_make(disk: Disk, first_members: Iterable[str], *, forming: bool = True) -> Identity:
    """Made once. Raises CorruptData, OSError."""
    identity = load(disk)
    if identity is None:
        identity = make(first_members, forming=forming)
        save(disk, identity)
    return identity


def adopt(disk: Disk, identity: Identity, cluster: str, generation: int) -> Identity:
    """A joining node has met its cluster: remember it, durably, before anything else. Raises OSError."""
    assert identity.cluster == ""
    adopted = Identity(identity.node_id, cluster, generation)
    save(disk, adopted)
    return adopted
