"""Helper process of a fault that must be kept up: follows ports, relays with a delay, or traces.

    keeper.py ports|relay|trace CLUSTER RECORD

May live here: what runs for as long as the record of its fault is there. Says `ready` once the fault is in
force. Keeps: it ends by itself when the record is gone, so nothing is left behind by a drill that was killed.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drills.clusters import Cluster, Site, run
from drills.links import MARK, load, relay_rules, unload
from drills.record import Record

PORTS_POLL_S = 0.05
"""How long it takes until a new connection is known; it is made at the next try, a second later."""
RECORD_POLL_S = 0.2
CHUNK_BYTES = 64 << 10
MAX_QUEUED_CHUNKS = 256
"""Of one direction of one connection: 16 MiB on a slow link."""
SO_ORIGINAL_DST = 80
ADDRESS_BYTES = 16


def main() -> int:
    kind, directory, path = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    record = Record(**json.loads(path.read_text(encoding="utf-8")))
    cluster = Cluster(directory)
    if kind == "ports":
        follow_ports(cluster, record, path)
    elif kind == "relay":
        asyncio.run(relay(cluster, record, path))
    else:
        trace(record, path)
    return 0


def ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


def follow_ports(cluster: Cluster, record: Record, path: Path) -> None:
    """The ports that the sites' processes connect from, into the sets of the table, whenever they change."""
    site = cluster[record.site]
    peers = [cluster[name] for name in record.details["peers"]]
    table = record.details["table"]
    before: dict[str, set[int]] = {}
    told = False
    while path.exists():
        now = {"known": all_ports(), "own_here": own_ports([site]), "own_there": own_ports(peers)}
        if now != before:
            lines = []
            for name, ports in now.items():
                lines.append(f"flush set inet {table} {name}")
                if ports:
                    lines.append(f"add element inet {table} {name} {{ {', '.join(map(str, ports))} }}")
            run(["nft", "-f", "-"], text="\n".join(lines) + "\n")
            before = now
        if not told:
            ready()
            told = True
        time.sleep(PORTS_POLL_S)


def own_ports(sites: list[Site]) -> set[int]:
    """Local ports of their processes' connections that they made themselves."""
    inodes: set[str] = set()
    for process in (process for site in sites for process in site.processes()):
        with contextlib.suppress(OSError):
            for fd in os.scandir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(fd.path)
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
    listening = {site.port(role) for site in sites for role in site.network if role != "allow_plaintext"}
    return {port for port, inode in _sockets() if inode in inodes and port not in listening}


def all_ports() -> set[int]:
    """Read before those of the sites, so that a port is never known before it is known whose it is."""
    return {port for port, _ in _sockets()}


def _sockets() -> list[tuple[int, str]]:
    """(local port, inode)"""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    words = [line.split() for line in lines]
    return [(int(each[1].rpartition(":")[2], 16), each[9]) for each in words]


async def relay(cluster: Cluster, record: Record, path: Path) -> None:
    delay_s = record.details["delay_ms"] / 1e3
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _carry(reader, writer, delay_s)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "0.0.0.0", 0)
    namespace = ""  # already in it
    load(namespace, relay_rules(cluster, record, server.sockets[0].getsockname()[1]))
    ready()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while path.exists() and not stop.is_set():  # noqa: ASYNC240 - a look at a local directory
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RECORD_POLL_S)
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Only now: without the rules a reset would leave under the relay's own address, and the other side of the
    # connection would wait for an answer for ever.
    unload(namespace, record.details["table"])


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Both directions, to where the connection was going before it was led here."""
    near = writer.get_extra_info("socket")
    packed = near.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, ADDRESS_BYTES)
    port, host = struct.unpack("!2xH4s8x", packed)
    far = socket.socket()
    far.setblocking(False)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writers = [writer]
    try:
        await asyncio.sleep(delay_s)
        await asyncio.get_running_loop().sock_connect(far, (socket.inet_ntoa(host), port))
        far_reader, far_writer = await asyncio.open_connection(sock=far)
        writers.append(far_writer)
        pumps = [
            asyncio.ensure_future(_pump(*pair, delay_s))
            for pair in ((reader, far_writer), (far_reader, writer))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
    except OSError:
        pass
    finally:
        for each in writers:
            each.transport.abort()
        far.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Each chunk leaves `delay_s` after it came; how many chunks are on their way does not matter."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_QUEUED_CHUNKS)
    loop = asyncio.get_running_loop()

    async def read() -> None:
        while data := await reader.read(CHUNK_BYTES):
            await queue.put((loop.time() + delay_s, data))
        await queue.put((loop.time() + delay_s, b""))

    reading = asyncio.ensure_future(read())
    try:
        while True:
            due_s, data = await queue.get()
            await asyncio.sleep(due_s - loop.time())
            if not data:
                return
            writer.write(data)
            await writer.drain()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def trace(record: Record, path: Path) -> None:
    """strace with what the record says, for as long as the record is there."""
    words = record.details["strace"]
    tracer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    try:
        wanted = set(record.details["traced"])
        deadline_s = time.monotonic() + 5
        while not wanted <= {pid for pid in wanted if _tracer_of(pid) == tracer.pid}:
            if tracer.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(f"strace: {tracer.stderr.read(2000).decode(errors='replace')}")
            time.sleep(0.02)
        ready()
        while path.exists() and tracer.poll() is None:
            time.sleep(RECORD_POLL_S)
    finally:
        tracer.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(3)
        tracer.kill()
        tracer.wait()


def _tracer_of(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("TracerPid:")).split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
