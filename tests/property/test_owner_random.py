"""An owner whose stores fail, fall silent and lose connections, over a log that is sometimes away: whatever
is acknowledged is on every copy that the tables call in sync, and reads go forward only.
"""

import random

import msgspec
import pytest

from tests.unit.protocol.owner_world import OSLO, PARIS, ROME, A, B, C, World, copy, two
from vimraft.core.commands import BeginResync, Promote, Retire
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.owner_effects import Propose
from vimraft.protocol.resync import Resync
from vimraft.protocol.rules import Rules

BLOCK = 4096
BLOCKS = (0, 1, 255, 256, 700)
STEPS = 160
ALL = Rules()


class Log:
    """Applies proposals in order, as the tables do: compared with the present epoch."""

    def __init__(self, world: World, first: VolumeMap) -> None:
        self.world = world
        self.state = first
        self.taken = 0

    def step(self) -> None:
        if self.taken == len(self.world.proposed):
            return
        propose = self.world.proposed[self.taken]
        self.taken += 1
        newer = self._apply(propose)
        if newer is not None:
            self.state = newer
            self.world.apply(newer)
        decision = "rejected" if newer is None else "applied"
        self.world.run(self.world.owner.outcome(propose.token, decision, self.world.now))  # type: ignore[arg-type]

    def _apply(self, propose: Propose) -> VolumeMap | None:
        command, state = propose.command, self.state
        if command.epoch != state.epoch or command.owner != state.owner:
            return None
        if isinstance(command, Retire):
            states = dict.fromkeys(command.replicas, "stale")
        elif isinstance(command, BeginResync):
            states = {command.replica: "syncing"}
        else:
            assert isinstance(command, Promote)
            states = {command.replica: "in_sync"}
        copies = tuple(
            msgspec.structs.replace(
                one,
                state=states.get(one.name, one.state),  # type: ignore[arg-type]
                left_epoch=state.epoch
                if states.get(one.name) == "stale" and one.state == "in_sync"
                else one.left_epoch,
            )
            for one in state.copies
        )
        if not any(one.state == "in_sync" for one in copies):
            return None
        return msgspec.structs.replace(state, index=state.index + 1, epoch=state.epoch + 1, copies=copies)


class Run:
    def __init__(self, seed: int, rules: Rules = ALL) -> None:
        self.random = random.Random(seed)
        first = VolumeMap(
            two().volume, 10, 5, PARIS, two().size_bytes, (copy(A, PARIS), copy(B, ROME), copy(C, OSLO))
        )
        self.world = World(first, rules=rules)
        self.log = Log(self.world, first)
        self.trouble: dict[str, float] = {PARIS: 0.0, ROME: 0.0, OSLO: 0.0}
        for name, store in self.world.stores.items():
            store.how = lambda request, name=name: self.behave(name)  # type: ignore[misc]
        self.may_be: dict[int, set[int]] = {block: {0} for block in BLOCKS}
        self.open: dict[int, tuple[str, int, int]] = {}
        """Requests without a reply: kind, block, value."""
        self.resyncs: dict[str, Resync] = {}
        self.tag = 0

    def behave(self, store: str) -> str:
        if self.random.random() >= self.trouble[store]:
            return "done"
        return self.random.choice(["failed", "silent", "lost", "busy", "done"])

    def step(self) -> None:
        world, choose = self.world, self.random.random()
        if choose < 0.35:
            block = self.random.choice(BLOCKS)
            self.tag = self.tag % 250 + 1
            # until it is settled, the block may hold either; a value failed with EIO may stay for ever
            self.may_be[block].add(self.tag)
            self.open[world.write(self.tag, block * BLOCK, BLOCK)] = ("write", block, self.tag)
        elif choose < 0.6:
            block = self.random.choice(BLOCKS)
            self.open[world.read(block * BLOCK, BLOCK)] = ("read", block, 0)
        elif choose < 0.65:
            world.ask("flush")
        elif choose < 0.72:
            self.trouble[self.random.choice([ROME, OSLO])] = self.random.choice([0.0, 0.0, 0.3, 0.9])
        elif choose < 0.77:
            world.run(world.owner.store_lost(self.random.choice([PARIS, ROME, OSLO]), world.now))
        elif choose < 0.87:
            self.log.step()
        elif choose < 0.92:
            for manager in (ROME, OSLO):
                world.installed(manager, self.log.state.index)
        elif choose < 0.96:
            self.resync()
        else:
            world.wait(self.random.choice([0.1, 1, 6, 31]))
            world.renew()
            world.run(world.owner.leases_changed({}, world.now))
        self.look()

    def resync(self) -> None:
        for one in self.log.state.copies:
            running = self.resyncs.get(one.name)
            if one.state in ("stale", "syncing") and (running is None or running.phase in ("over", "failed")):
                self.resyncs[one.name] = resync = Resync(self.world.owner, one.name)
                self.world.run(resync.start(self.world.now))

    def look(self) -> None:
        for request, (kind, block, value) in list(self.open.items()):
            reply = self.world.replies.get(request)
            if reply is None:
                continue
            del self.open[request]
            if reply.how != "done":
                continue
            still = {v for k, b, v in self.open.values() if k == "write" and b == block}
            if kind == "write":
                self.in_all_copies(block, value)
                self.may_be[block] = {value} | still
            else:
                seen = reply.data[0]
                assert set(reply.data) == {seen}, "half of a write was read"
                assert seen in self.may_be[block], f"block {block}: {seen} of {self.may_be[block]}"
                self.may_be[block] = {seen} | still

    def in_all_copies(self, block: int, value: int) -> None:
        later = {v for k, b, v in self.open.values() if k == "write" and b == block}
        for one in self.log.state.in_sync:
            for part in one.parts:
                got = self.world.stores[part.store].data[one.name][block * BLOCK]
                assert got == value or got in later | self.may_be[block], (
                    f"{one.name} has {got} in block {block}, not {value}"
                )

    def finish(self) -> None:
        """Everything heals: then everything is answered, and copies in sync are equal."""
        self.trouble = dict.fromkeys(self.trouble, 0.0)
        for _ in range(60):
            self.world.wait(1)
            self.world.renew()
            self.log.step()
            for manager in (ROME, OSLO):
                self.world.installed(manager, self.log.state.index)
            self.resync()
            self.look()
        assert not self.open, f"never answered: {self.open}"
        assert len(self.log.state.in_sync) == 3, self.log.state.copies
        datas = {bytes(self.world.stores[s].data.get(n, b"")) for s, n in ((PARIS, A), (ROME, B), (OSLO, C))}
        assert len(datas) == 1, "copies in sync differ"


def run(seed: int, rules: Rules = ALL) -> None:
    one = Run(seed, rules)
    for _ in range(STEPS):
        one.step()
    one.finish()


@pytest.mark.parametrize("seed", range(20))
def test_acknowledged_writes_are_on_all_copies_in_sync_and_everything_is_answered(seed) -> None:
    run(seed)
