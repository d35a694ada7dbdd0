"""`python -m tests.fault.fuzz_api --inputs N [--seed S]`: anything at all against a manager's API.

A real manager with its data plane. Inputs that carry the right token are such that no operation is meant
(bad bodies, unknown paths, reads); all others come without it. After every batch: the same process answers,
its tables are the same; memory and descriptors are bounded, no answer was a 500 or a traceback, and the log
has grown by at most one line per input.

The last line is `N inputs, V violations`; exit code 1 unless V is 0.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import struct
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.cluster_fixture import TOKEN, Cluster, running_cluster

BATCH = 250
AT_ONCE = 16
WAIT_S = 0.5
MAX_GROWTH_MB = 64
MAX_DESCRIPTORS = 300
MAX_ANSWER_BYTES = 4 << 20

READS = [
    "status",
    "tables/sectors",
    "tables/volumes",
    "volumes/none",
    "events",
    "history",
    "jobs/none",
    "metrics",
]
CHANGES = [
    ("POST", "volumes"),
    ("POST", "volumes/none/grow"),
    ("DELETE", "volumes/none"),
    ("PUT", "storages"),
    ("DELETE", "storages/none"),
    ("POST", "reals"),
    ("PUT", "reals/none/0"),
    ("PUT", "sites/none/priority"),
    ("PUT", "settings/none"),
    ("POST", "members"),
    ("DELETE", "members/none"),
    ("POST", "internal/heartbeat"),
]
TRICKS = [
    "/v1/../../etc/passwd",
    "/v1/%2e%2e/%2e%2e/etc/passwd",
    "/v1/tables/..%2f..%2fetc%2fpasswd",
    "/v1/volumes/%00",
    "/v1/volumes/" + "a" * 3000,
    "/v1/volumes/%ff%fe",
    "/v1/volumes/" + "%F0%9F%92%A3" * 50,
    "//v1//status",
    "/v1/status;x=1?limit=-1",
    "/v1/events?after=99999999999999999999&limit=x",
    "/v1/history?limit=1e9",
    "/v1/reals/a/-1",
    "/v1/reals/a/99999999999999999999",
    "/v1/docs/../status",
    "http://elsewhere/v1/status",
    "*",
    "",
]


def _token(chance: random.Random) -> str:
    return chance.choice(["", "x", TOKEN[:-1], TOKEN + "x", "\xff" * 20, " ", "a" * 9000, TOKEN.upper()])


def _request(method: str, path: str, headers: list[str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _bad_body(chance: random.Random) -> tuple[str, bytes]:
    """(content type, something that is no request)"""
    texts = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"0",
        b'{"name": 1}',
        b'{"unknown": true}',
        b'{"name": "\xff"}',
        b'{"address": {"a": []}}',
        b"[" * 60_000,
        b'{"a":' * 20_000,
        b"1" * 5_000,
        b"NaN",
        b'"' + b"\\u0000" * 2_000 + b'"',
        b" " * ((1 << 20) + 10),
        chance.randbytes(chance.randint(1, 3_000)),
    ]
    kinds = [
        "application/json",
        "application/msgpack",
        "text/plain",
        "multipart/form-data",
        "",
        "x/y; charset=\xff",
    ]
    kind = chance.choice(kinds)
    if chance.random() < 0.3:
        return "application/msgpack", chance.choice(
            [b"\xc1", b"\xdf\xff\xff\xff\xff", msgspec.msgpack.encode([1]), b"\x91" * 10_000]
        )
    return kind, chance.choice(texts)


def _without_token(chance: random.Random) -> bytes:
    method, path = chance.choice(CHANGES + [("GET", read) for read in READS])
    kind, body = _bad_body(chance)
    headers = [f"Content-Type: {kind}"] if kind else []
    if chance.random() < 0.8:
        headers.append(f"Authorization: {chance.choice(['Bearer ', 'Basic ', ''])}{_token(chance)}")
    return _request(method, f"/v1/{path}", headers, body)


def _bad_change(chance: random.Random) -> bytes:
    method, path = chance.choice([change for change in CHANGES if change[0] != "DELETE"])
    kind, body = _bad_body(chance)
    headers = [f"Authorization: Bearer {TOKEN}"]
    if kind:
        headers.append(f"Content-Type: {kind}")
    if chance.random() < 0.2:
        headers.append("X-Request-Id: " + chance.choice(["", "a" * 100, "\x01\x02", "\xe9\xff"]))
    if chance.random() < 0.2:
        headers.append("X-Vimraft-User: " + chance.choice(["\x1b[2J", "u" * 5_000, "\xff"]))
    return _request(method, f"/v1/{path}", headers, body)


def _trick(chance: random.Random) -> bytes:
    method = chance.choice(["GET", "PUT", "PATCH", "HEAD", "TRACE", "OPTIONS", "CONNECT", "get", "X" * 500])
    headers = [f"Authorization: Bearer {TOKEN}"] if chance.random() < 0.5 else []
    return _request(method, chance.choice(TRICKS), headers, b"")


def _large(chance: random.Random) -> bytes:
    return chance.choice(
        [
            b"GET /v1/status HTTP/1.1\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
            b"GET /v1/status HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(3_000)) + b"\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n" + bytes(70_000),
            b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\nx",
            b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Length: 3\r\n\r\n0\r\n\r\n",
        ]
    )


def _random(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, 4_000))


def _broken(chance: random.Random) -> bytes:
    """A request that is damaged or breaks off."""
    data = bytearray(_without_token(chance)[:5_000])
    for _ in range(chance.randint(0, 6)):
        data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
    return bytes(data[: chance.randint(1, len(data))])


def _tls(chance: random.Random) -> bytes:
    return b"\x16\x03\x01\x02\x00" + chance.randbytes(512)


_MAKERS = [_without_token, _without_token, _bad_change, _bad_change, _trick, _large, _random, _broken, _tls]


def make_input(chance: random.Random) -> tuple[bytes, str]:
    """(bytes, how the connection ends)"""
    return chance.choice(_MAKERS)(chance), chance.choices(["wait", "close", "reset"], [10, 2, 1])[0]


class ApiTarget:
    def __init__(self, cluster: Cluster) -> None:
        self.site = next(iter(cluster.sites.values()))
        assert self.site.process is not None
        self.pid = self.site.process.pid
        self.violations: list[str] = []
        with self.site.client() as client:
            client.status()
        self._tables = self._read_tables()
        self._lines = self._count_lines()
        self._first_mb = self._memory_mb()

    def _read_tables(self) -> str:
        """Without what changes by itself (health, load, leases)."""
        with self.site.client() as client:
            status, history = client.status(), client.history(limit=1_000)
        parts = (history.changes, status.settings, status.volumes, sorted(s.name for s in status.sites))
        return repr(parts)

    def _count_lines(self) -> int:
        return self.site.log_path.read_bytes().count(b"\n")

    def _memory_mb(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    async def send(self, data: bytes, end: str) -> None:
        host, _, port = self.site.api.rpartition(":")
        answer = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(data)
                if end == "reset":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
                elif end == "wait":
                    async with asyncio.timeout(WAIT_S):
                        while len(answer) < MAX_ANSWER_BYTES and (part := await reader.read(65536)):
                            answer += part
            finally:
                writer.close()
        if re.match(rb"HTTP/1\.[01] 500", answer) or b"Traceback" in answer:
            self.wrong(f"{data[:300]!r} was answered with {answer[:600]!r}")

    def check(self, inputs: int) -> None:
        process = self.site.process
        if process is None or process.poll() is not None:
            self.wrong(f"the manager is gone: {self.site.tail()}")
            raise SystemExit(1)
        tables = self._read_tables()
        if tables != self._tables:
            self.wrong(f"the tables were {self._tables}, are {tables}")
            self._tables = tables
        if self._memory_mb() > self._first_mb + MAX_GROWTH_MB:
            self.wrong(f"memory was {self._first_mb:.0f} MiB, is {self._memory_mb():.0f}")
        descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
        if descriptors > MAX_DESCRIPTORS:
            self.wrong(f"{descriptors} descriptors")
        text = self.site.log_path.read_bytes().splitlines()[self._lines :]
        if len(text) > inputs:
            self.wrong(f"{len(text)} lines for {inputs} inputs: {text[-20:]}")
        if any(b"Traceback" in line for line in text):
            self.wrong(f"a traceback in the log: {text[-40:]}")
        self._lines = self._count_lines()

    def wrong(self, what: str) -> None:
        self.violations.append(what)
        print(what, flush=True)


def fuzz(directory: Path, inputs: int, seed: int) -> list[str]:
    """What was violated."""
    chance = random.Random(seed)
    with running_cluster(directory, ("tokyo",)) as cluster:
        target = ApiTarget(cluster)
        done = 0
        while done < inputs:
            count = min(BATCH, inputs - done)
            asyncio.run(_send_all(target, [make_input(chance) for _ in range(count)]))
            target.check(count)
            done += count
            if done % 1_000 == 0:
                print(f"{done} inputs", flush=True)
    return target.violations


async def _send_all(target: ApiTarget, inputs: list[tuple[bytes, str]]) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes, end: str) -> None:
        async with limit:
            await target.send(data, end)

    async with asyncio.TaskGroup() as group:
        for data, end in inputs:
            group.create_task(one(data, end))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fault.fuzz_api")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="vimraft-") as directory:
        violations = fuzz(Path(directory), given.inputs, given.seed)
    print(f"{given.inputs} inputs, {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
