"""Who is at the other end of a link: the first frames of every connection.

May live here: the frames, the checks and their order, without sockets or clocks. The side that dialled says
Hello; the other one judges it and answers with its own Hello or a Refusal; the dialler judges that and says
Ready or refuses too. Only then is the link up, at both ends. A stranger learns nothing but the refusal.

Keeps: a message counts as a member's only if its cluster and generation are ours, its address is a member's,
its node id is the one known for that address (a wiped disk under an old name has another), and with TLS its
certificate is for that very address.

A node that was away while members came and went knows none of those that came. They are let in as *guests*:
they lead and ask for votes, as any member may whose log is ahead, but are not counted. A guest must know a
newer change of the members than this node does; whoever does not was removed, or is not added yet.

A member that tells of a later generation of this very cluster ends this node's part in the older one.
"""

from collections.abc import Callable
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta, Struct, structs

from vimraft.metadata.pysyncobj.wire import MAX_NUMBER, MAX_REASON_CHARS, WireError, decode_as, printable

PROTOCOL: Final = 2
"""1 was PySyncObj's own. Raised with any change that an older release would take for a WireError."""
MAX_HELLO_BYTES: Final = 4 << 10

RefusalCode = Literal[
    "not-a-member", "other-cluster", "other-generation", "changed-identity", "wrong-address", "protocol"
]
Text = Annotated[str, Meta(max_length=255)]


class Identity(Protocol):
    """See identity.py."""

    @property
    def node_id(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def birth(self) -> str: ...


class TlsFiles(Struct, frozen=True):
    """Paths of PEM files."""

    ca: str
    cert: str
    key: str


def never(_address: str, _node_id: str) -> bool:
    return False


def _ignore(_generation: int) -> None:
    pass


class NetworkIdentity(Struct):
    """What a node says of itself on the network, and asks about others. The node's thread only."""

    identity: Identity
    """May be replaced: a node that joins learns its cluster later."""
    address: str
    tls: TlsFiles | None
    """None: plain TCP, which the configuration allows on loopback only."""
    knows: Callable[[str, str], bool]
    """(address, node id): may a peer of that id speak as that address? Remembers the id durably at first
    contact. Asked after everything else has been found right."""
    named: Callable[[str, str], bool] = never
    """(address, node id): does the log itself name this id for that address? Only such a peer may not know
    its cluster yet."""
    release: str = ""
    config_index: Callable[[], int] = int
    """Log index of the newest change of the members that this node knows; 0: none."""
    decided_index: Callable[[], int] = int
    """The same, of those changes only that are certainly the cluster's."""
    decided: Callable[[str, str], bool] = never
    """(address, node id): is it a member by what is certainly the cluster's, though perhaps not by the newest
    entries here, which another leader may replace?"""
    superseded: Callable[[int], None] = _ignore
    """(generation): a member is in that later generation of this cluster."""


class Hello(Struct, frozen=True, tag="hello"):
    """Fields that a later release adds are ignored, so that `protocol` can be read and refused."""

    protocol: int
    cluster: Text
    generation: Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
    node_id: Text
    address: Text
    release: Text = ""
    birth: Text = ""
    config_index: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] = 0


class Refusal(Struct, frozen=True, tag="refusal"):
    code: RefusalCode
    message: Annotated[str, Meta(max_length=MAX_REASON_CHARS)]
    cluster: Text = ""
    """Of the one who refuses, when the generation is why."""
    generation: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] = 0
    birth: Text = ""


class Ready(Struct, frozen=True, tag="ready"):
    pass


Frame = Hello | Refusal | Ready
_decoder: "msgspec.msgpack.Decoder[Frame]" = msgspec.msgpack.Decoder(Frame)
_encoder = msgspec.msgpack.Encoder()


def encode_frame(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_frame(data: bytes) -> Frame:
    """Raises WireError."""
    return decode_as(_decoder, data, MAX_HELLO_BYTES)


class Step(Struct, frozen=True):
    """What to do after a frame."""

    send: Frame | None = None
    up: bool = False
    """The link may carry messages now, after `send`."""
    refused: str = ""
    """The link ends, after `send`: why, for people."""


class Handshake:
    """One end of one connection."""

    def __init__(
        self,
        network: NetworkIdentity,
        *,
        is_member: Callable[[str], bool],
        dialled: str | None,
        certificate_addresses: Callable[[], tuple[str, ...] | None],
    ) -> None:
        """`dialled`: the address that this end called, None at the other end.
        `certificate_addresses`: for which addresses the peer's certificate is, None without TLS."""
        self._network = network
        self._is_member = is_member
        self._dialled = dialled
        self._certificate_addresses = certificate_addresses
        self._up = False
        self.peer: Hello | None = None
        """Whom the other end claims to be; true once the link is up."""
        self.guest = False
        """Let in without being a member here."""

    def hello(self) -> Hello:
        """The dialling side sends it first."""
        identity = self._network.identity
        return Hello(
            protocol=PROTOCOL,
            cluster=identity.cluster,
            generation=identity.generation,
            node_id=identity.node_id,
            address=self._network.address,
            release=self._network.release,
            birth=identity.birth,
            config_index=self._network.config_index(),
        )

    def receive(self, data: bytes) -> Step:
        """Raises WireError."""
        frame = decode_frame(data)
        if isinstance(frame, Refusal):
            if self._dialled is None and self.peer is None:
                raise WireError("a refusal of nothing")
            self._learn_from(frame)
            return Step(refused=f"refused by it as {frame.code}: {printable(frame.message)}")
        if isinstance(frame, Ready):
            if self._dialled is not None or self.peer is None:
                raise WireError("ready before hello")
            return Step(up=True)
        if self.peer is not None:
            raise WireError("a second hello")
        self.peer = frame
        refusal = self._judge(frame)
        if refusal is not None:
            refusal = structs.replace(refusal, message=printable(refusal.message))
            return Step(send=refusal, refused=f"{refusal.code}: {refusal.message}")
        if self._dialled is None:
            return Step(send=self.hello())
        return Step(send=Ready(), up=True)

    def _judge(self, hello: Hello) -> Refusal | None:
        mine = self._network.identity
        address = hello.address
        if hello.protocol != PROTOCOL:
            return Refusal(
                "protocol",
                f"protocol {hello.protocol}, here {PROTOCOL}: bring both managers to one release",
            )
        if not hello.node_id:
            return Refusal("protocol", f"{address} has no node id")
        problem = self._address_problem(hello)
        if problem is not None:
            return problem
        unnamed = not hello.cluster and not self._network.named(address, hello.node_id)
        if unnamed or (hello.cluster and mine.cluster and hello.cluster != mine.cluster):
            return Refusal(
                "other-cluster",
                f"cluster {hello.cluster or '(none)'}, here {mine.cluster or '(none)'}: check raft.members, "
                "or have the one that is to join run: vimraft site join --replace NAME",
            )
        if hello.cluster and mine.cluster:
            theirs = (hello.generation, hello.birth)
            if theirs != (mine.generation, mine.birth):
                if self._is_member(address):
                    self._heed(hello)
                return self._other_generation(hello)
        member = self._is_member(address)
        if member and self._network.knows(address, hello.node_id):
            return None
        called = self._dialled is not None and not member  # a node that joins calls whom it was told to
        newer = hello.config_index > self._network.decided_index()
        if called or newer or (not member and self._network.decided(address, hello.node_id)):
            self.guest = True
            return None
        if not member:
            return Refusal("not-a-member", f"{address} is no member here: add it with vimraft site join")
        return Refusal(
            "changed-identity",
            f"{address} has another node id than before (its disk was emptied or replaced): bring the "
            "old disk back, or run there: vimraft site join --replace NAME",
        )

    def _other_generation(self, hello: Hello) -> Refusal:
        mine = self._network.identity
        if hello.generation == mine.generation:
            said = f"generation {mine.generation}, but of another recovery or restore than here"
        else:
            said = f"generation {hello.generation}, here {mine.generation}"
        return Refusal(
            "other-generation",
            f"{said}: the cluster was recovered or restored since; whoever is to give its tables up runs: "
            "vimraft site join --replace NAME",
            cluster=mine.cluster,
            generation=mine.generation,
            birth=mine.birth,
        )

    def _heed(self, of: "Hello | Refusal") -> None:
        """A later generation has a birth of its own; without, the number is a mistake."""
        mine = self._network.identity
        if of.generation > mine.generation and of.birth not in ("", mine.birth):
            self._network.superseded(of.generation)

    def _learn_from(self, refusal: Refusal) -> None:
        """Whoever leads a later generation calls none of the earlier one; it only refuses them."""
        mine, dialled = self._network.identity, self._dialled
        if refusal.code != "other-generation" or dialled is None or not self._is_member(dialled):
            return
        certified = self._certificate_addresses()
        if certified is not None and dialled not in certified:
            return
        if mine.cluster and refusal.cluster == mine.cluster:
            self._heed(refusal)

    def _address_problem(self, hello: Hello) -> Refusal | None:
        """The address is the one that was called, and the one in the certificate."""
        if self._dialled is not None and hello.address != self._dialled:
            return Refusal(
                "wrong-address",
                f"{self._dialled} calls itself {hello.address}: check network.raft there",
            )
        certified = self._certificate_addresses()
        if certified is not None and hello.address not in certified:
            return Refusal(
                "wrong-address",
                f"the certificate of {hello.address} is for {', '.join(certified) or 'no Raft address'}: "
                f"vimraft tls issue NAME --raft {hello.address}",
            )
        return None
