"""All commands, sensible and hostile, in any order, against the naive model of `tables_model`.

After every command: the invariants hold (INV-2 … INV-9), a refusal changed nothing, a retry has the
same outcome and no second effect, a second manager that applied the same bytes has the same tables,
and the tables come back from their snapshot (INV-8).
"""

import types
import typing

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from tests.tables_model import UNIT, Model
from vimraft.core import codec, commands, levels
from vimraft.core.apply import apply, apply_request, plan
from vimraft.core.commands import (
    AddRealVolume,
    Applied,
    Barrier,
    BuildVolume,
    Command,
    ConfirmRelease,
    DeleteVolume,
    FormCluster,
    GrowVolume,
    Outcome,
    ReadsLevel,
    Rejected,
    RemoveManager,
    RemoveRealVolume,
    RemoveSite,
    RemoveStorage,
    RenewLease,
    ReopenVolumes,
    Request,
    SetLevel,
    SetManager,
    SetRealVolumeState,
    SetSetting,
    SetSite,
    SetStorage,
)
from vimraft.core.history import OutOfReach, oldest_index, tables_at
from vimraft.core.invariants import check
from vimraft.core.tables import Manager, Settings, Site, State, Storage
from vimraft.core.views import VIEWS

MANAGERS = ("m1", "m2", "m3")
SITES = ("s1", "s2", "s3", "s4")
STORAGES = ("021a00", "022a00", "023a00", "024a00")
VOLUMES = ("v1", "v2", "v3", "v4", "v5", "v6")
CLASSES = ("ssd", "hdd")

managers, sites = st.sampled_from(MANAGERS), st.sampled_from(SITES)
storages, volumes, classes = st.sampled_from(STORAGES), st.sampled_from(VOLUMES), st.sampled_from(CLASSES)
orders = st.lists(sites, unique=True, max_size=3).map(tuple)
luns = st.integers(0, 2)
sizes = st.one_of(
    st.integers(1, 30).map(lambda units: units * UNIT),
    st.integers(1, 30 * UNIT),
)

volume_step = st.tuples(
    st.sampled_from(["build", "build", "build", "grow", "free", "delete", "confirm", "exclude", "activate"]),
    volumes,
    st.one_of(st.integers(1, 7).map(lambda units: units * UNIT), st.integers(1, 5 * UNIT)),
)

hostile_text = st.one_of(
    st.sampled_from([*MANAGERS, *SITES, *STORAGES, *VOLUMES, *CLASSES, "", ".x", "a b", "\x00", "x" * 70]),
    st.text(max_size=20),
)
hostile_int = st.one_of(
    st.integers(-2, 40), st.integers(-(1 << 63), (1 << 64) - 1), st.sampled_from([1 << 54, 1 << 43])
)


def hostile(kind: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Values of a field's type, most of them nonsense."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is UnsetType:
        return st.just(UNSET)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([st.none() if part is types.NoneType else hostile(part) for part in args])
    if origin is tuple and args[-1] is not Ellipsis:
        return st.tuples(*[hostile(part) for part in args])
    if origin is tuple:
        return st.lists(hostile(args[0]), max_size=3).map(tuple)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if isinstance(kind, type) and issubclass(kind, Struct):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: hostile(hints[name]) for name in kind.__struct_fields__})
    return {int: hostile_int, bool: st.booleans()}.get(kind, hostile_text)


def _with_copies(command: Command) -> bool:
    if isinstance(command, BuildVolume):
        return command.copies > 1
    return isinstance(command, commands.SINCE_COPIES)


hostile_commands = st.sampled_from(typing.get_args(commands.Command)).flatmap(hostile)


class Tables(RuleBasedStateMachine):
    level = levels.LATEST

    def __init__(self) -> None:
        super().__init__()
        self.past: dict[int, State] = {}
        self.state = State()
        self.other = State()
        self.model = Model()
        self.sent: list[tuple[bytes, bytes]] = []

    def manager_at(self, name: str, number: int) -> Manager:
        at = [f"h:{thousand * 1000 + number}" for thousand in (1, 2, 3, 4)]
        return Manager(name, at[0], f"http://{at[1]}", at[2], at[3], level=self.level)

    @initialize()
    def form(self) -> None:
        self.run(FormCluster("prop", Settings(), level=self.level))
        for number, name in enumerate(MANAGERS, start=1):
            self.run(SetManager(self.manager_at(name, number)))
            self.run(SetSite(Site(SITES[number - 1], name)))
            self.run(SetStorage(Storage(STORAGES[number - 1], SITES[number - 1], "")))
            self.run(AddRealVolume(STORAGES[number - 1], 0, "ssd", f"file:///{number}", f"l{number}", 12))
        self.run(SetSite(Site("s1", "m1", ("s2",))))
        self.run(SetStorage(Storage("024a00", "s1", "")))
        for address, lun in (("024a00", 0), ("021a00", 1), ("022a00", 1)):
            self.run(AddRealVolume(address, lun, "ssd", f"file:///{address}-{lun}", f"{address}-{lun}", 8))

    def run(self, command: Command) -> Outcome:
        before = self.state
        request = Request("machine", len(self.sent) + 1, len(self.sent), "me", command)
        data = codec.encode_request(request, before.level)
        self.state, answer = apply(before, data)
        self.past[self.state.index] = self.state
        outcome = codec.decode_outcome(answer)
        self.sent.append((data, answer))
        assert self.state.index == before.index + 1 == outcome.index
        if isinstance(outcome, Rejected):
            assert self.state._replace(index=before.index, clients=before.clients) == before
        else:
            self.model.follow(command, outcome)
        self.second_manager(data, answer)
        if not isinstance(command, FormCluster | SetLevel):  # written for a level of their own
            assert codec.encode_outcome(plan(before, command, request.at_ms), before.level) == answer
        return outcome

    def second_manager(self, data: bytes, answer: bytes) -> None:
        """Has its tables from a snapshot, applies the same bytes, and must be where we are."""
        restored = codec.decode_state(codec.encode_state(self.other))
        assert restored == self.other
        self.other, theirs = apply(restored, data)
        assert theirs == answer
        assert codec.state_digest(self.other) == codec.state_digest(self.state)

    def expect(self, command: Command, applied: bool) -> None:
        assert isinstance(self.run(command), Applied) == applied

    @invariant()
    def tables_are_sound(self) -> None:
        assert check(self.state) == []
        if self.sent:
            self.model.compare(self.state)

    @rule(name=managers, number=st.integers(1, 9))
    def set_manager(self, name: str, number: int) -> None:
        taken = {m.raft_address for m in self.state.managers.values() if m.name != name}
        self.expect(SetManager(self.manager_at(name, number)), f"h:{1000 + number}" not in taken)

    @rule(name=managers)
    def remove_manager(self, name: str) -> None:
        busy = any(of == name for of, _ in self.model.sites.values())
        busy |= any(volume["owner"] == name for volume in self.model.volumes.values())
        busy |= any(name in waiting for waiting, _ in self.model.releases.values())
        self.expect(RemoveManager(name), name in self.model.managers and not busy)

    @rule(name=sites, manager=managers, order=orders)
    def set_site(self, name: str, manager: str, order: tuple[str, ...]) -> None:
        model = self.model
        possible = manager in model.managers and name not in order and set(order) <= set(model.sites)
        if possible and name in model.sites and model.sites[name][0] != manager:
            possible = not any(
                holder is not None and model.site_of(real) == name
                for (real, _), holder in model.units.items()
            )
        self.expect(SetSite(Site(name, manager, order)), possible)

    @rule(name=sites)
    def remove_site(self, name: str) -> None:
        model = self.model
        used = name in model.storages.values() or any(name in order for _, order in model.sites.values())
        self.expect(RemoveSite(name), name in model.sites and not used)

    @rule(address=storages, site=sites)
    def set_storage(self, address: str, site: str) -> None:
        model = self.model
        fixed = any(real.storage == address for real in model.classes)
        moves = model.storages.get(address, site) != site
        self.expect(SetStorage(Storage(address, site, "")), site in model.sites and not (fixed and moves))

    @rule(address=storages)
    def remove_storage(self, address: str) -> None:
        used = any(real.storage == address for real in self.model.classes)
        self.expect(RemoveStorage(address), address in self.model.storages and not used)

    @rule(address=storages, lun=luns, volume_class=classes, units=st.integers(1, 16))
    def add_real(self, address: str, lun: int, volume_class: str, units: int) -> None:
        possible = address in self.model.storages and (address, lun) not in self.model.classes
        unique = f"{address}-{lun}-{len(self.sent)}"
        self.expect(AddRealVolume(address, lun, volume_class, f"file:///{unique}", unique, units), possible)

    @rule(
        address=storages,
        lun=luns,
        state=st.sampled_from(["active", "active", "excluded", "failed", "draining"]),
    )
    def set_real_state(self, address: str, lun: int, state: typing.Any) -> None:
        self.expect(SetRealVolumeState(address, lun, state, "why"), (address, lun) in self.model.classes)

    @rule(address=storages, lun=luns)
    def remove_real(self, address: str, lun: int) -> None:
        real = (address, lun)
        used = any(id_ == real and holder is not None for (id_, _), holder in self.model.units.items())
        self.expect(RemoveRealVolume(address, lun), real in self.model.classes and not used)

    @rule(name=volumes, size=sizes, volume_class=classes, manager=managers, order=orders)
    def build(self, name: str, size: int, volume_class: str, manager: str, order: tuple[str, ...]) -> None:
        command = BuildVolume(name, size, volume_class, manager, order)
        known = manager in self.model.managers and set(order) <= set(self.model.sites)
        fits = known and name not in self.model.volumes and self.model.placement(command) is not None
        self.expect(command, fits)

    @rule(name=volumes, more=sizes)
    def grow(self, name: str, more: int) -> None:
        if name not in self.model.volumes:
            self.expect(GrowVolume(name, more), False)
            return
        command = GrowVolume(name, self.model.volumes[name]["size"] + more - 1)
        self.expect(command, more > 1 and self.model.growth(command) is not None)

    @rule(name=volumes)
    def delete(self, name: str) -> None:
        self.expect(DeleteVolume(name), name in self.model.volumes)

    @rule()
    def confirm_all(self) -> None:
        for release, (waiting, _) in list(self.model.releases.items()):
            for manager in sorted(waiting):
                self.expect(ConfirmRelease(manager, release), True)

    @rule(steps=st.lists(volume_step, min_size=3, max_size=10))
    def volume_work(self, steps: list[tuple[str, str, int]]) -> None:
        """Small volumes come, grow and go, so that space gets scattered and given back."""
        for what, name, size in steps:
            if what == "build" and name not in self.model.volumes:
                self.build(name, size, "ssd", "m1", ())
            elif what in ("build", "grow"):
                self.grow(name, size)
            elif what in ("exclude", "activate"):
                real = sorted(self.model.classes)[size % len(self.model.classes)]
                state = "active" if what == "activate" else "excluded"
                self.expect(SetRealVolumeState(real.storage, real.lun, state), True)
            elif what == "confirm":
                self.confirm_all()
            else:
                self.delete(name)
                if what == "free":
                    self.confirm_all()
            self.tables_are_sound()

    @rule(manager=managers, release=st.integers(0, 8))
    def confirm_one(self, manager: str, release: int) -> None:
        self.expect(ConfirmRelease(manager, release), manager in self.model.managers)

    @rule(manager=managers)
    def reopen(self, manager: str) -> None:
        self.expect(ReopenVolumes(manager, "life"), manager in self.model.managers)

    @rule(manager=managers, incarnation=st.sampled_from(["a", "b"]), counter=st.integers(0, 5))
    def renew_lease(self, manager: str, incarnation: str, counter: int) -> None:
        lease = self.state.leases.get(manager)
        stale = lease is not None and lease.incarnation == incarnation and counter < lease.counter
        self.expect(
            RenewLease(manager, incarnation, counter, 7), manager in self.model.managers and not stale
        )

    @rule(value=st.integers(0, 20))
    def set_history(self, value: int) -> None:
        self.expect(SetSetting("history_changes", value), True)

    @rule()
    def barrier(self) -> None:
        self.expect(Barrier(), True)

    @rule(command=hostile_commands)
    def hostile_command(self, command: Command) -> None:
        if not _with_copies(command):
            self.run(command)
            return
        # The model knows one copy and no trash: these go to throwaway tables (see test_copies_machine).
        after, _ = apply_request(self.state, Request("hostile", 1, 0, "me", command))
        assert check(after) == []

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """The last request gives its outcome again; an older one is outdated. Neither does a thing."""
        if not self.sent:
            return
        back = data.draw(st.sampled_from([1, 1, 2, len(self.sent)]))
        request, answer = self.sent[-min(back, len(self.sent))]
        if isinstance(codec.decode_request(request).command, Barrier | RenewLease | SetLevel):
            return
        before = self.state
        self.state, again = apply(before, request)
        known = before.clients["machine"]
        if known.sequence == codec.decode_request(request).sequence:
            assert again == answer
        else:
            assert isinstance(codec.decode_outcome(again), Rejected)
        assert self.state == before._replace(index=before.index + 1)
        self.second_manager(request, again)

    @rule(data=st.binary(max_size=60), flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255))))
    def damaged_bytes(self, data: bytes, flips: list[tuple[int, int]]) -> None:
        """Noise, and a request with some bytes changed: whatever it means now, nothing breaks. Applied to
        a throwaway state, since the model could not follow."""
        damaged = bytearray(self.sent[-1][0] if self.sent else b"\x01")
        for at, value in flips:
            damaged[at % len(damaged)] = value
        for noise in (data, b"\x01" + data, bytes(damaged)):
            after, _ = apply(self.state, noise)
            assert check(after) == []

    @rule(offset=st.integers(0, 5), limit=st.one_of(st.none(), st.integers(0, 5)))
    def views_show_rows_of_their_columns(self, offset: int, limit: int | None) -> None:
        for view in VIEWS.values():
            _, columns, rows = view(self.state, "", 0, None)
            assert all(len(row) == len(columns) for row in rows)
            end = None if limit is None else offset + limit
            assert view(self.state, "", offset, limit).rows == rows[offset:end]

    @rule(back=st.integers(0, 40))
    def look_back(self, back: int) -> None:
        """What is rebuilt is what was, or is known to be out of reach."""
        index = max(1, self.state.index - back)
        found = tables_at(self.state, index)
        oldest = oldest_index(self.state)
        if isinstance(found, OutOfReach):
            assert index < found.oldest == oldest <= found.newest == self.state.index
            return
        assert index >= oldest
        if index not in self.past:  # a retry: the tables are those before it
            return
        was = self.past[index]
        for table in ("cluster_id", "settings", "managers", "sites", "storages", "reals", "volumes"):
            assert getattr(found, table) == getattr(was, table), table
        for view in VIEWS.values():
            assert view(found, "", 0, None) == view(was, "", 0, None)

    @rule()
    def upgrade(self) -> None:
        said = tuple([ReadsLevel(name, levels.LATEST) for name in sorted(self.state.managers)])
        self.run(SetLevel(levels.LATEST, said))
        assert self.state.level == levels.LATEST


class TablesOfLevelOne(Tables):
    """Until it is upgraded."""

    level = levels.FIRST

    def manager_at(self, name: str, number: int) -> Manager:
        return replace(super().manager_at(name, number), level=self.state.level)


TestTables = Tables.TestCase
TestTablesOfLevelOne = TablesOfLevelOne.TestCase


@given(st.lists(volume_step, min_size=10, max_size=60))
def test_space_is_shared_out_as_the_model_does_it(steps: list[tuple[str, str, int]]) -> None:
    tables = Tables()
    tables.form()
    tables.volume_work(steps)


@given(st.lists(hostile_commands, max_size=10))
def test_hostile_commands_before_and_after_the_cluster_is_formed(some: list[Command]) -> None:
    state = State()
    for number, command in enumerate([*some, FormCluster("x", Settings()), *some], start=1):
        before = state
        state, answer = apply(state, codec.encode_request(Request("c", number, 0, "", command)))
        assert check(state) == []
        if isinstance(codec.decode_outcome(answer), Rejected):
            assert state._replace(index=before.index, clients=before.clients) == before
