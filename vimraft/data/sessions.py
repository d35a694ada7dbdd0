"""Reserved export names, and the sessions of the sites that use them.

    .forward/VOLUME/EPOCH/SESSION/GENERATION    another site's export, at the owner's export
    .segments/VOLUME/EPOCH/SESSION/GENERATION   the owner's export, at a store

SESSION is MANAGER~INSTANCE~SLOT: a slot of one life (`instance`) of the manager's export. May live here: the
rule that a late copy of a resent write never overtakes a newer write. A newer generation of a slot turns
the older one away and waits until its running request has finished; an older or equal one is refused; a
new life of a manager's export does the same to all slots of its former life.
"""

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from vimraft.data.errors import OpenError
from vimraft.data.handle import Handle
from vimraft.data.volume import FORWARD, SEGMENTS

MAX_SESSIONS = 8192
"""Slots remembered, over all volumes and managers."""
MAX_FORMER_LIVES = 64
"""Former lives remembered per manager; their late connections are refused."""
DRAIN_POLL_S = 0.001


class PeerExport(NamedTuple):
    kind: str
    volume: str
    epoch: int
    manager: str
    instance: str
    slot: str
    generation: int

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.volume, self.manager, self.slot)


def parse_peer_export(name: str) -> PeerExport:
    """Raises OpenError."""
    parts = name.split("/")
    if len(parts) == 5 and parts[0] in (FORWARD, SEGMENTS):
        kind, volume, epoch, session, generation = parts
        session_parts = session.split("~")
        if len(session_parts) == 3 and _number(epoch) and _number(generation):
            manager, instance, slot = session_parts
            return PeerExport(kind, volume, int(epoch), manager, instance, slot, int(generation))
    raise OpenError(f"export {name[:200]!r}: names with a dot in front are for other managers")


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19


class _Slot:
    __slots__ = ("generation", "handle")

    def __init__(self, generation: int, handle: Handle) -> None:
        self.generation = generation
        self.handle: Handle | None = handle


class SessionTable:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str, str], _Slot] = OrderedDict()
        self._instances: dict[str, str] = {}
        self._former: dict[str, OrderedDict[str, None]] = {}

    def enter(self, name: PeerExport, handle: Handle, timeout_s: float) -> None:
        """Make `handle` the only one of its slot. Raises OpenError: refused, or the older one still runs."""
        with self._lock:
            older = self._meet_instance(name)
            known = self._slots.get(name.key)
            if known is not None and name.generation <= known.generation:
                raise OpenError(f"session {name.key}: generation {name.generation} is not the newest")
            if known is not None and known.handle is not None:
                older.append(known.handle)
            for handle_before in older:
                handle_before.superseded = True
            self._slots[name.key] = _Slot(name.generation, handle)
            self._slots.move_to_end(name.key)
            self._forget()
        deadline = time.monotonic() + timeout_s
        for handle_before in older:
            handle_before.gate.wake()
            while handle_before.busy:
                if time.monotonic() >= deadline:
                    raise OpenError(f"session {name.key}: an older request is still running")
                time.sleep(DRAIN_POLL_S)

    def leave(self, name: PeerExport, handle: Handle) -> None:
        with self._lock:
            slot = self._slots.get(name.key)
            if slot is not None and slot.handle is handle:
                slot.handle = None  # its generation stays known

    def _meet_instance(self, name: PeerExport) -> list[Handle]:
        former = self._former.setdefault(name.manager, OrderedDict())
        if name.instance in former:
            raise OpenError(f"{name.manager}: this life of its export has ended")
        current = self._instances.get(name.manager)
        if current == name.instance:
            return []
        self._instances[name.manager] = name.instance
        if current is None:
            return []
        former[current] = None
        while len(former) > MAX_FORMER_LIVES:
            former.popitem(last=False)
        gone = [key for key in self._slots if key[1] == name.manager]
        return [slot.handle for slot in map(self._slots.pop, gone) if slot.handle is not None]

    def _forget(self) -> None:
        """Oldest closed slots first; a slot in use is never forgotten."""
        if len(self._slots) > MAX_SESSIONS:
            for key in [key for key, slot in self._slots.items() if slot.handle is None]:
                del self._slots[key]
                if len(self._slots) <= MAX_SESSIONS:
                    return
            raise OpenError(f"more than {MAX_SESSIONS} sessions of peers are open")
