"""`python -m tests.fault.fuzz_raft_port --inputs N [--seed S]`: anything at all against the Raft port.

Two clusters of real node processes, one on plain loopback, one with TLS. Each has three members, of which two
go on running; the third's address and id (and, with TLS, its certificate) are in the fuzzer's hands. After
every batch: the process lives, its term and its tables are the same, it still commits; memory and descriptors
are bounded, it has written at most one line per input, and nothing that was sent has been executed.

The last line is `N inputs, V violations`; exit code 1 unless V is 0.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import random
import socket
import ssl
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fault.raft_port_inputs import Input, Scene, make_input
from tests.raft_cases import FORMING, NodeProcess, free_addresses, until
from tests.raft_links import Authority
from vimraft.core.commands import SetSetting

BATCH = 250
AT_ONCE = 20
WAIT_S = 0.4
HELD_AT_MOST = 30
MAX_GROWTH_MB = 48
MAX_DESCRIPTORS = 200
PATIENT = {"election_min_ms": 4_000, "election_max_ms": 8_000, "heartbeat_ms": 100}
"""Terms must not change by themselves on a busy machine."""


class Target:
    """One cluster, and what has been seen wrong with it."""

    def __init__(self, path: Path, *, tls: bool) -> None:
        self.path = path
        self.tls = tls
        self.violations: list[str] = []
        self.nodes: list[NodeProcess] = []
        self.mark = path / "executed"
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._held: list[asyncio.StreamWriter] = []
        self._lines = 0
        self._first_mb = 0.0
        self._commits = 0

    @property
    def name(self) -> str:
        return "tls" if self.tls else "plain"

    async def start(self) -> None:
        addresses = sorted(free_addresses(3))
        files = self._certificates(addresses) if self.tls else {}
        for i, address in enumerate(addresses):
            options: dict[str, Any] = dict(PATIENT)
            if self.tls:
                options["tls"] = files[address]
            node = NodeProcess(address, addresses, self.path / f"{self.name}{i}", **options)
            self.nodes.append(node)
        await asyncio.gather(*(node.start() for node in self.nodes))
        for command in FORMING:
            await self.nodes[0].propose(command, deadline_ms=30_000)
        phantom = self.nodes.pop()
        identity = json.loads((phantom.raft_dir / "identity.json").read_text())
        await phantom.close()  # if it leads, it hands over: an election takes seconds with such patience
        await phantom.kill()
        await self.nodes[0].propose(FORMING[-1], deadline_ms=60_000)
        self.scene = Scene(addresses[0], addresses[2], identity["cluster"], identity["node_id"], self.mark)
        self._victim = self.nodes[0]
        self._before = await self._facts()
        self._first_mb = self._before["rss_mb"]
        self._lines = self._count_lines()

    def _certificates(self, addresses: list[str]) -> dict[str, dict[str, str]]:
        ours, foreign = Authority(self.path / "ca"), Authority(self.path / "foreign")
        made = {address: ours.issue(address) for address in addresses}
        stranger = foreign.issue(addresses[2])
        for name, files in (("none", None), ("foreign", stranger), ("peer", made[addresses[2]])):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if files is not None:
                context.load_cert_chain(files.cert, files.key)
            self._contexts[name] = context
        return {a: {"ca": f.ca, "cert": f.cert, "key": f.key} for a, f in made.items()}

    # --- one input ----------------------------------------------------------------------------

    async def send(self, given: Input) -> None:
        host, _, port = self.scene.target.rpartition(":")
        context = self._contexts.get(given.identity)
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(
                    host, int(port), ssl=context, server_hostname="x" if context else None
                )
            try:
                await self._talk(given, reader, writer)
            finally:
                if given.end != "hold":
                    writer.close()

    async def _talk(self, given: Input, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if given.end == "hold":
            self._held.append(writer)
            if len(self._held) > HELD_AT_MOST:
                self._held.pop(0).close()
        size = max(1, -(-len(given.data) // given.pieces))
        for start in range(0, len(given.data), size):
            writer.write(given.data[start : start + size])
            if given.pieces > 1:
                await asyncio.sleep(0)
        if given.end == "reset":
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is None:
                return  # closed by the other end already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif given.end == "wait":
            async with asyncio.timeout(WAIT_S):
                while await reader.read(65536):
                    pass

    # --- what must still hold -----------------------------------------------------------------

    async def _facts(self) -> dict[str, Any]:
        tables, status = await self._victim.tables(), await self._victim.status()
        return {"digest": tables["digest"], "term": status["term"], "rss_mb": tables["rss_mb"]}

    def _count_lines(self) -> int:
        return self._victim.stderr.count("\n")

    async def check(self, inputs: int) -> None:
        """After a batch of so many inputs."""
        try:
            now = await self._facts()
        except (OSError, AssertionError, TimeoutError, Exception) as error:  # noqa: BLE001 - any of them is one
            self.wrong(f"the node is gone: {error!r}; {self._victim.stderr[-2000:]}")
            raise SystemExit(1) from None
        for key in ("digest", "term"):
            if now[key] != self._before[key]:
                self.wrong(f"{key} was {self._before[key]}, is {now[key]}")
        if now["rss_mb"] > self._first_mb + MAX_GROWTH_MB:
            self.wrong(f"memory was {self._first_mb:.0f} MiB, is {now['rss_mb']:.0f}")
        lines = self._count_lines() - self._lines
        if lines > inputs:
            self.wrong(f"{lines} lines for {inputs} inputs: {self._victim.stderr[-3000:]}")
        descriptors = len(list(Path(f"/proc/{self._victim.opened['pid']}/fd").iterdir()))
        if descriptors > MAX_DESCRIPTORS:
            self.wrong(f"{descriptors} descriptors")
        if self.mark.exists():
            self.wrong("something that was sent has been executed")
            self.mark.unlink()
        self._commits += 1
        await self._victim.propose(SetSetting("io_timeout_ms", 2_000 + self._commits), deadline_ms=30_000)
        await until(self._both_applied, 20, "the other node has it too")
        self._before = await self._facts()
        self._lines = self._count_lines()

    async def _both_applied(self) -> bool:
        digests = {(await node.tables())["digest"] for node in self.nodes}
        return len(digests) == 1

    def wrong(self, what: str) -> None:
        self.violations.append(what)
        print(f"{self.name}: {what}", flush=True)

    async def close(self) -> None:
        for writer in self._held:
            writer.close()
        for node in self.nodes:
            await node.kill()


async def fuzz(path: Path, inputs: int, seed: int) -> list[str]:
    """What was violated."""
    chance = random.Random(seed)
    targets = [Target(path, tls=False), Target(path, tls=True)]
    try:
        await asyncio.gather(*(target.start() for target in targets))
        done = 0
        while done < inputs:
            count = min(BATCH, inputs - done)
            sent = dict.fromkeys(targets, 0)
            limit = asyncio.Semaphore(AT_ONCE)

            async def one(target: Target, given: Input, limit: asyncio.Semaphore = limit) -> None:
                async with limit:
                    await target.send(given)

            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    target = chance.choice(targets)
                    sent[target] += 1
                    group.create_task(one(target, make_input(target.scene, chance, tls=target.tls)))
            for target, number in sent.items():
                await target.check(number)
            done += count
            if done % 1_000 == 0:
                print(f"{done} inputs", flush=True)
    finally:
        for target in targets:
            await target.close()
    return [what for target in targets for what in target.violations]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fault.fuzz_raft_port")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it remarks on every reset TLS connection
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="vimraft-fuzz-") as directory:
        violations = asyncio.run(fuzz(Path(directory), given.inputs, given.seed))
    print(f"{given.inputs} inputs, {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
