"""Reserved export names, and the sessions of the sites that use them.

    .forward/VOLUME/EPOCH/SESSION/GENERATION    another site's export, at the owner's export
    .segments/VOLUME/EPOCH/SESSION/GENERATION   the owner's export, at a store

SESSION is MANAGER~INSTANCE~SLOT or MANAGER~INSTANCE~SLOT~TICKET: a slot of one life (`instance`) of the
manager's export. May live here: the rule that a late copy of a resent write never overtakes a newer write.

- A newer generation of a slot turns the older ones away and waits until no request of any of them runs; an
  older or equal one is refused. A handle is remembered until it has been seen idle after it was turned away:
  a newer open that gave up waiting changes nothing about that.
- A new life of a manager's export does the same to all slots of its former lives, and each of its opens of a
  volume waits for all that still run there.
- Lives have no clock in common, so the receiver orders them: an open of another life than the present one is
  not let in but told a ticket, which one life can use once to become the present one. An open of a dead life
  that arrives late has no valid ticket and nobody to read a new one; a life that runs always gets in.
"""

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Container
from typing import NamedTuple

from vimraft.data.errors import OpenError
from vimraft.data.handle import Handle
from vimraft.data.volume import FORWARD, SEGMENTS

MAX_SESSIONS = 8192
"""Slots remembered, over all volumes and managers."""
MAX_MANAGERS = 1024
"""Managers whose lives are remembered; the engine lets in only those of the installed tables."""
DRAIN_POLL_S = 0.001


class NotPresentLife(OpenError):
    """Another life of this manager's export is the present one; with `ticket` this one takes its place."""

    def __init__(self, name: "PeerExport", ticket: str) -> None:
        super().__init__(f"{name.manager}: another life of its export than {name.instance} is served here")
        self.ticket = ticket


class PeerExport(NamedTuple):
    kind: str
    volume: str
    epoch: int
    manager: str
    instance: str
    slot: str
    generation: int
    ticket: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.volume, self.manager, self.slot)


def parse_peer_export(name: str) -> PeerExport:
    """Raises OpenError."""
    parts = name.split("/")
    if len(parts) == 5 and parts[0] in (FORWARD, SEGMENTS):
        kind, volume, epoch, session, generation = parts
        session_parts = session.split("~")
        if len(session_parts) in (3, 4) and _number(epoch) and _number(generation):
            manager, instance, slot, *ticket = session_parts
            return PeerExport(kind, volume, int(epoch), manager, instance, slot, int(generation), *ticket)
    raise OpenError(f"export {name[:200]!r}: names with a dot in front are for other managers")


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19


class _Slot:
    """`undrained`: turned away, and not seen idle since."""

    __slots__ = ("generation", "handle", "undrained")

    def __init__(self) -> None:
        self.generation = -1
        self.handle: Handle | None = None
        self.undrained: list[Handle] = []

    def turn_away(self) -> None:
        if self.handle is not None:
            self.handle.superseded = True
            self.undrained.append(self.handle)
            self.handle = None
        self.undrained = _running(self.undrained)


class _Life:
    """`former`: per volume, what may still run of the manager's earlier lives."""

    __slots__ = ("former", "instance", "ticket")

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.ticket = uuid.uuid4().hex
        self.former: dict[str, list[Handle]] = {}


def _running(handles: list[Handle]) -> list[Handle]:
    """Of handles that were turned away: one that is idle once never runs a request again (see gate)."""
    return [handle for handle in handles if handle.busy]


class SessionTable:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str, str], _Slot] = OrderedDict()
        self._lives: dict[str, _Life] = {}

    def enter(self, name: PeerExport, handle: Handle, timeout_s: float) -> None:
        """Make `handle` the only one of its slot. Raises OpenError: refused, or an older one still runs."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            life = self._meet(name)
            slot = self._slot_of(name)
            if name.generation <= slot.generation:
                raise OpenError(f"session {name.key}: generation {name.generation} is not the newest")
            slot.turn_away()
            slot.generation = name.generation
            slot.handle = handle
            before = slot.undrained + life.former.get(name.volume, [])
        for older in before:
            older.gate.wake()
        while not self._drained(name, handle, slot, life):
            if time.monotonic() >= deadline:
                self.leave(name, handle)
                raise OpenError(f"session {name.key}: an older request is still running")
            time.sleep(DRAIN_POLL_S)

    def _drained(self, name: PeerExport, handle: Handle, slot: _Slot, life: _Life) -> bool:
        with self._lock:
            if handle.superseded:
                raise OpenError(f"session {name.key}: a newer one has come meanwhile")
            slot.undrained = _running(slot.undrained)
            former = _running(life.former.pop(name.volume, []))
            if former:
                life.former[name.volume] = former
            return not (slot.undrained or former)

    def leave(self, name: PeerExport, handle: Handle) -> None:
        with self._lock:
            slot = self._slots.get(name.key)
            if slot is not None and slot.handle is handle:
                slot.handle = None  # its generation stays known
                if handle.busy:
                    handle.superseded = True
                    slot.undrained.append(handle)

    def retain(self, managers: Container[str]) -> None:
        """Turn away the sessions of all other managers, and forget them when nothing of theirs runs."""
        with self._lock:
            for manager in [manager for manager in self._lives if manager not in managers]:
                former = self._end_life(manager)
                if former:
                    self._lives[manager].former = former
                else:
                    del self._lives[manager]

    def _meet(self, name: PeerExport) -> _Life:
        life = self._lives.get(name.manager)
        if life is not None and life.instance == name.instance:
            return life
        if life is None:
            if len(self._lives) >= MAX_MANAGERS:
                raise OpenError(f"{name.manager}: sessions of {MAX_MANAGERS} managers are known already")
            former: dict[str, list[Handle]] = {}
        elif name.ticket == life.ticket:
            former = self._end_life(name.manager)
        else:
            raise NotPresentLife(name, life.ticket)
        life = self._lives[name.manager] = _Life(name.instance)
        life.former = former
        return life

    def _end_life(self, manager: str) -> dict[str, list[Handle]]:
        """Turn all its slots away; what still runs, per volume."""
        running = {volume: _running(handles) for volume, handles in self._lives[manager].former.items()}
        for key in [key for key in self._slots if key[1] == manager]:
            slot = self._slots.pop(key)
            slot.turn_away()
            running.setdefault(key[0], []).extend(slot.undrained)
        return {volume: handles for volume, handles in running.items() if handles}

    def _slot_of(self, name: PeerExport) -> _Slot:
        slot = self._slots.get(name.key)
        if slot is None:
            if len(self._slots) >= MAX_SESSIONS:
                self._forget_one()
            slot = self._slots[name.key] = _Slot()
        self._slots.move_to_end(name.key)
        return slot

    def _forget_one(self) -> None:
        """The oldest closed slot; one in use, or of which a request may still run, is never forgotten."""
        for key, slot in self._slots.items():
            slot.undrained = _running(slot.undrained)
            if slot.handle is None and not slot.undrained:
                del self._slots[key]
                return
        raise OpenError(f"more than {MAX_SESSIONS} sessions of peers are open")
