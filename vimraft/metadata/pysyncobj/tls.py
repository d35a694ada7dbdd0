"""Mutual TLS 1.3 between nodes: both ends show a certificate of the cluster's own CA.

May live here: SSL contexts from the configured files, their check at start and renewal while running, and
TLS over memory buffers (no sockets here: connection.py moves the bytes). A certificate says for which Raft
address it is, in a URI subject alternative name; handshake.py compares it with the peer's hello.

Keeps: no link without a certificate from both ends; files that cannot be read later (a renewal that is half
done) never end a running node: it goes on with the certificate it has.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from vimraft.metadata.pysyncobj.errors import Misconfigured
from vimraft.metadata.pysyncobj.handshake import TlsFiles

log = structlog.get_logger(__name__)

RELOAD_CHECK_S: Final = 1.0
READ_BYTES: Final = 64 << 10

Stamp = tuple[tuple[int, int, int], ...]


def check_tls(files: TlsFiles, address: str) -> None:
    """Everything that can be known before a peer is met. Raises Misconfigured."""
    # Only here: without TLS a start need not wait for it.
    from vimraft.metadata.certificates import CertificateProblem, check_files

    try:
        check_files(Path(files.ca), Path(files.cert), Path(files.key), address)
        _load(files)
    except CertificateProblem as problem:
        raise Misconfigured(f"tls: {problem}") from None
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"tls: {files.cert} with {files.key} and {files.ca} cannot be used: {error}. Make new ones "
            "with: vimraft tls issue"
        ) from None


class TlsContexts:
    """The contexts for new connections; renewed when the files change."""

    def __init__(self, files: TlsFiles, clock: Callable[[], float]) -> None:
        """Raises Misconfigured."""
        self._files = files
        self._clock = clock
        self._stamp = self._read_stamp()
        try:
            self._client, self._server = _load(files)
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"tls: {files.cert}: {error}. See vimraft tls show") from None
        self._next_check = clock() + RELOAD_CHECK_S

    def connect(self) -> "TlsStream":
        self._renew()
        return TlsStream(self._client, server_side=False)

    def accept(self) -> "TlsStream":
        self._renew()
        return TlsStream(self._server, server_side=True)

    def _renew(self) -> None:
        now = self._clock()
        if now < self._next_check:
            return
        self._next_check = now + RELOAD_CHECK_S
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._client, self._server = _load(self._files)
        except (OSError, ssl.SSLError) as error:
            log.error("raft.certificate_not_renewed", cert=self._files.cert, problem=str(error))
            return
        log.info("raft.certificate_renewed", cert=self._files.cert)

    def _read_stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in (self._files.ca, self._files.cert, self._files.key))


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _load(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(client's, server's). Raises OSError (of which SSLError is one)."""
    made = []
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the address in the certificate is compared with the hello
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=files.ca)
        # A key with a passphrase would otherwise ask for it on the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")
        made.append(context)
    made[1].num_tickets = 0  # every link shows its certificate anew
    return made[0], made[1]


class TlsStream:
    """One end of one TLS connection: ciphertext in, plaintext out, and the reverse."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._early: list[bytes] = []
        self.established = False
        self.ended = False
        """The other end closed the stream in order."""

    def start(self) -> None:
        """Have the client's first message ready to be taken. Raises SSLError."""
        self._shake_hands()

    def receive(self, data: bytes) -> bytes:
        """What `data` says. Raises SSLError; what `take` gives then still wants to be sent (an alert)."""
        self._incoming.write(data)
        if not self.established:
            self._shake_hands()
            if not self.established:
                return b""
        parts: list[bytes] = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: bytes) -> None:
        """Kept until the handshake is over. Raises SSLError."""
        if self.established:
            self._tls.write(data)
        else:
            self._early.append(data)

    def take(self) -> bytes:
        """Ciphertext for the other end."""
        return self._outgoing.read()

    def peer_addresses(self) -> tuple[str, ...]:
        """The Raft addresses that the peer's certificate is for."""
        from vimraft.metadata.certificates import URI_PREFIX

        found: Any = self._tls.getpeercert() or {}
        uris = [str(value) for kind, value in found.get("subjectAltName", ()) if kind == "URI"]
        return tuple(uri[len(URI_PREFIX) :] for uri in uris if uri.startswith(URI_PREFIX))

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True
        early, self._early = self._early, []
        for data in early:
            self._tls.write(data)
