"""The simulated world behaves as it says: connections, disks, records, clocks, lives."""

import random

from tests.simulation.cluster.clock import Clock
from tests.simulation.cluster.media import Media, Records
from tests.simulation.cluster.process import Process
from tests.simulation.cluster.record import bytes_of
from tests.simulation.cluster.wire import Wire
from tests.simulation.world import World

REAL = "r"


class Peer(Process):
    def __init__(self, world: World, site: str) -> None:
        super().__init__(world, Clock(1.0, 0.0), site, "peer")
        self.heard: list[object] = []
        self.connections: list[object] = []
        self.losses = self.refusals = 0

    def connected(self, connection) -> None:
        self.connections.append(connection)

    accepted = connected

    def refused(self, other) -> None:
        self.refusals += 1

    def received(self, connection, payload) -> None:
        self.heard.append(payload)

    def lost(self, connection) -> None:
        self.losses += 1


def pair() -> tuple[World, Wire, Peer, Peer]:
    world = World(1)
    wire = Wire(world, random.Random(1), 0.001, 0.05)
    a, b = Peer(world, "a"), Peer(world, "b")
    for one in (a, b):
        wire.watch(one)
        one.start()
    wire.connect(a, b)
    world.run_until(1)
    return world, wire, a, b


def test_messages_arrive_in_order() -> None:
    world, _, a, b = pair()
    for number in range(50):
        a.connections[0].send(a, number)
    world.run_until(2)
    assert b.heard == list(range(50))


def test_a_cut_holds_one_direction_back_until_it_heals() -> None:
    world, wire, a, b = pair()
    wire.cut("a", "b")
    a.connections[0].send(a, "there")
    b.connections[0].send(b, "back")
    world.run_until(2)
    assert (a.heard, b.heard) == (["back"], [])
    wire.heal("a", "b")
    world.run_until(3)
    assert b.heard == ["there"]
    assert a.losses == b.losses == 0


def test_a_long_cut_ends_the_connection_and_what_was_held_is_lost() -> None:
    world, wire, a, b = pair()
    wire.cut("a", "b")
    a.connections[0].send(a, "there")
    world.run_until(6)
    wire.heal("a", "b")
    world.run_until(8)
    assert b.heard == []
    assert (a.losses, b.losses) == (1, 1)


def test_what_was_sent_before_the_end_may_arrive_after_the_sender_knows_of_it() -> None:
    late = 0
    for seed in range(40):
        world = World(seed)
        wire = Wire(world, random.Random(seed + 99), 0.2, 2.0)
        a, b = Peer(world, "a"), Peer(world, "b")
        for one in (a, b):
            wire.watch(one)
            one.start()
        wire.connect(a, b)
        world.run_until(9)
        a.connections[0].send(a, "late")
        wire.break_between("a", "b")
        while not a.losses:
            world.run_until(world.now + 0.001)
        before = bool(b.heard)
        world.run_until(30)
        late += bool(b.heard) and not before
    assert 2 < late < 38


def test_a_process_that_ended_gets_nothing_of_its_former_life() -> None:
    world, wire, a, b = pair()
    a.connections[0].send(a, "old")
    b.kill()
    b.start()
    world.run_until(2)
    assert b.heard == []
    assert a.losses == 1
    wire.connect(a, b)
    world.run_until(3)
    a.connections[1].send(a, "new")
    world.run_until(4)
    assert b.heard == ["new"]


def test_a_paused_process_does_everything_later() -> None:
    world, _, a, b = pair()
    b.pause()
    a.connections[0].send(a, 1)
    b.after(0.1, b.heard.append, "timer")
    world.run_until(2)
    assert b.heard == []
    b.resume()
    assert sorted(map(str, b.heard)) == ["1", "timer"]


def test_clocks_run_at_their_rates() -> None:
    clock = Clock(1.1, 5.0)
    assert clock.now_ns(10.0) == 16_000_000_000
    when = clock.world_s(16_000_000_000)
    assert clock.now_ns(when) >= 16_000_000_000
    assert abs(when - 10.0) < 1e-6


def disk(seed: int = 1) -> tuple[World, Media]:
    world = World(seed)
    return world, Media(world, random.Random(seed), 0.001)


def done(results: list) -> object:
    return lambda ok, data: results.append((ok, data))


def write(world: World, media: Media, tag: int, first: int = 0, count: int = 4) -> None:
    media.write(REAL, first, bytes_of((tag,) * count), done([]))
    world.run_until(world.now + 1)


def flush(world: World, media: Media) -> bool:
    results: list = []
    media.flush(done(results))
    world.run_until(world.now + 1)
    return results[0][0]


def contents(media: Media, count: int = 4) -> list[int]:
    return [int.from_bytes(media.at((REAL, at))[:8], "big") for at in range(count)]


def test_a_power_cut_takes_any_of_what_was_not_flushed_and_nothing_else() -> None:
    seen = set()
    for seed in range(80):
        world, media = disk(seed)
        write(world, media, 1)
        assert flush(world, media)
        write(world, media, 2)
        media.power_cut()
        left = contents(media)
        assert set(left) <= {1, 2}
        seen.add(tuple(left))
    assert (1, 1, 1, 1) in seen
    assert (2, 2, 2, 2) in seen
    assert len(seen) > 4


def test_the_death_of_the_process_leaves_the_page_cache() -> None:
    world, media = disk()
    write(world, media, 1)
    media.process_ends()
    assert contents(media) == [1] * 4


def test_what_was_under_way_when_the_process_ended_happens_then_or_never() -> None:
    seen = set()
    for seed in range(20):
        world, media = disk(seed)
        results: list = []
        media.write(REAL, 0, bytes_of((1,)), done(results))
        media.process_ends()
        now = contents(media, 1)
        world.run_until(5)
        assert contents(media, 1) == now
        assert results == []
        seen.add(now[0])
    assert seen == {0, 1}


def test_a_flush_covers_what_was_there_when_it_began() -> None:
    world, media = disk()
    write(world, media, 1)
    results: list = []
    media.flush(done(results))
    media._put((REAL, 0), bytes_of((2,)))
    world.run_until(world.now + 1)
    assert results == [(True, b"")]
    media._dirty.clear()
    media._cache = dict(media._stable)
    assert contents(media) == [1] * 4


def test_after_a_failed_flush_the_next_one_succeeds_and_the_data_is_gone() -> None:
    world, media = disk()
    write(world, media, 1)
    media.failing_flushes = 1
    assert not flush(world, media)
    assert flush(world, media)
    world.run_until(world.now + 20)
    assert contents(media) == [0] * 4


def test_errors_fail_their_kind_of_io_alone() -> None:
    world, media = disk()
    media.errors.append(("read", 1.0))
    results: list = []
    write(world, media, 1)
    media.read(REAL, 0, 1, done(results))
    world.run_until(world.now + 1)
    media.errors.clear()
    media.read(REAL, 0, 1, done(results))
    world.run_until(world.now + 1)
    assert results == [(False, b""), (True, bytes_of((1,)))]


def test_records_are_kept_from_when_they_are_done_and_in_order() -> None:
    seen = set()
    for seed in range(30):
        world = World(seed)
        records = Records(world, random.Random(seed), 0.01)
        told: list = []
        records.put("floor", 1, lambda told=told: told.append(1))
        world.run_until(1)
        records.put("floor", 2, lambda told=told: told.append(2))
        records.put("other", 3, lambda told=told: told.append(3))
        records.ends()
        world.run_until(2)
        assert told == [1]
        if records.kept.get("other") == 3:
            assert records.kept["floor"] == 2
        seen.add((records.kept["floor"], records.kept.get("other")))
    assert seen == {(1, None), (2, None), (2, 3)}
