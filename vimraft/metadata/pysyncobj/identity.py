"""Which node this is, of which cluster, in which life of that cluster: identity.json.

May live here: that file. It is the *last* file of a first start: where it is, the journal must be too; so
a directory that lost its journal is never taken for a new one, and a wiped disk comes back as a node with
another id, whom the others refuse until the old one has been removed (a node that forgot its votes and
entries would break both promises).
"""

import secrets
import uuid
from collections.abc import Iterable
from typing import Final

from msgspec import Struct, structs

from vimraft.metadata.pysyncobj.disk import Disk, read_whole, write_durably
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData
from vimraft.metadata.pysyncobj.sealed import sealed, unsealed

IDENTITY: Final = "identity.json"
FIRST_GENERATION: Final = 1
_CLUSTERS: Final = uuid.UUID("3c7f6f0e-35a4-5d53-8f0a-6c2f1f0d9b7e")


class Identity(Struct, frozen=True):
    node_id: str
    cluster: str
    """"": this node was told to join a cluster and has not met it yet (see `adopt`)."""
    generation: int = FIRST_GENERATION
    """+1 whenever the cluster went on from a copy of its tables, leaving members behind."""
    birth: str = ""
    """Random, made with each later generation: two that were made independently of each other have the
    same number, and are two clusters all the same. "": the first generation."""
    superseded_by: int = 0
    """A later generation of this cluster has been met: this node is not to decide anything any more."""

    @property
    def stamp(self) -> bytes:
        """What the journal carries. By the node alone: cluster and generation may be learnt later."""
        return uuid.UUID(self.node_id).bytes


def cluster_of(first_members: Iterable[str]) -> str:
    """The same at each of those who form a cluster together, without asking each other."""
    return str(uuid.uuid5(_CLUSTERS, "\n".join(sorted(set(first_members)))))


def new_birth() -> str:
    return secrets.token_hex(8)


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
        identity = unsealed(data, Identity)
        uuid.UUID(identity.node_id)
    except ValueError as error:
        raise CorruptData(f"{disk.describe(IDENTITY)}: not an identity: {error}. {REMEDY}") from None
    return identity


def save(disk: Disk, identity: Identity) -> None:
    """Raises OSError; then the old one is still there."""
    write_durably(disk, IDENTITY, sealed(identity))


def adopt(disk: Disk, identity: Identity, cluster: str, generation: int, birth: str = "") -> Identity:
    """A joining node has met its cluster: remember it, durably, before anything else. Raises OSError."""
    assert identity.cluster == ""
    adopted = structs.replace(identity, cluster=cluster, generation=generation, birth=birth)
    save(disk, adopted)
    return adopted


def supersede(disk: Disk, identity: Identity, generation: int) -> Identity:
    """A member leads a life of its cluster that is newer than ours. Raises OSError."""
    assert generation > identity.generation
    superseded = structs.replace(identity, superseded_by=generation)
    save(disk, superseded)
    return superseded
