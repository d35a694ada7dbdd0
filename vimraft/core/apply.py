"""Apply: the one function by which the tables change, deterministic and total (INV-8).

May live here: decoding, dedupe, history, and the choice of the function for a command. What a command
does is in the `apply_*` module of its subject. Depends on nothing but (state, bytes): a
Map iterates in the order of hashes, which differ from process to process, so wherever order reaches the
tables or an outcome, it is sorted first.

Every command in the log moves the index by one: refused ones, malformed ones and retries too, so that
all managers that applied the same entries hold the same index. Nothing else changes on a refusal but
the dedupe entry of its client.

Dedupe keeps the last outcome per client, for how long is said in `dedupe`. `Barrier` and `RenewLease` are not
kept: applying them twice does no harm (see `apply_members.renew_lease`), and they are by far the most
frequent. Nor is `SetLevel`, which releases below its level cannot read: a refused one must leave no trace
with anybody.

Whatever differs between levels asks `state.level` (see `levels`): at level 1 the bytes are those that the
first release gives, which a test holds against a log that it wrote.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from vimraft.core import (
    apply_copies,
    apply_members,
    apply_moves,
    apply_reals,
    apply_takeover,
    apply_trash,
    apply_volumes,
    checks,
    codec,
    commands,
    dedupe,
    history,
    levels,
)
from vimraft.core.change import Change, reals_of
from vimraft.core.chunked import Chunked
from vimraft.core.commands import Applied, Command, Outcome, Rejected, Request
from vimraft.core.ids import RealId
from vimraft.core.nesting import nesting_exceeds
from vimraft.core.reasons import Invalid, Malformed, NotFormed, Outdated, Reason
from vimraft.core.tables import ClientResult, MapChange, RealVolume, State, Volume

MAX_REQUEST_BYTES = 1 << 20
"""No legal command comes near it; the log should not have to carry more."""
MAX_NESTING = 32
"""Containers inside containers in a request; commands need 4."""
MAX_CLIENT_CHARS = 400
"""An address, an incarnation and a counter, or a caller's request id."""
MAX_OUTCOME_SEGMENTS = 1_024
"""An outcome carries no volume (and no real volume) with more segments (free runs) than this: it would
stay in every snapshot. Whoever wants it reads the tables at the outcome's index."""
MAX_OUTCOME_SEGMENTS_KEPT_LONG = 128
"""The same where many more results are kept (from level 2 on)."""

_HANDLERS: dict[type, Callable[[State, Any], Change | Reason]] = {
    commands.FormCluster: apply_members.form_cluster,
    commands.SetManager: apply_members.set_manager,
    commands.RemoveManager: apply_members.remove_manager,
    commands.SetSite: apply_members.set_site,
    commands.RemoveSite: apply_members.remove_site,
    commands.SetSetting: apply_members.set_setting,
    commands.SetLevel: apply_members.set_level,
    commands.RenewLease: apply_members.renew_lease,
    commands.SetStorage: apply_reals.set_storage,
    commands.RemoveStorage: apply_reals.remove_storage,
    commands.AddRealVolume: apply_reals.add_real,
    commands.SetRealVolumeState: apply_reals.set_real_state,
    commands.RemoveRealVolume: apply_reals.remove_real,
    commands.GrowVolume: apply_volumes.grow,
    commands.DeleteVolume: apply_volumes.delete,
    commands.ConfirmRelease: apply_volumes.confirm_release,
    commands.ReopenVolumes: apply_volumes.reopen,
    commands.Barrier: lambda state, _command: Change(state),
    commands.Retire: apply_copies.retire,
    commands.BeginResync: apply_copies.begin_resync,
    commands.Promote: apply_copies.promote,
    commands.AddCopy: apply_copies.add_copy,
    commands.RemoveCopy: apply_copies.remove_copy,
    commands.PauseCopy: apply_copies.pause_copy,
    commands.TakeOver: apply_takeover.take_over,
    commands.MoveOwner: apply_takeover.move_owner,
    commands.SetHandingOver: apply_takeover.set_handing_over,
    commands.LoseUnflushed: apply_copies.lose_unflushed,
    commands.Rejoin: apply_takeover.rejoin,
    commands.ForceLost: apply_takeover.force_lost,
    commands.BeginMove: apply_moves.begin_move,
    commands.MoveSegments: apply_moves.move_segments,
    commands.AbortMove: apply_moves.abort_move,
    commands.SetReadOnly: apply_volumes.set_read_only,
    commands.SetReadPolicy: apply_copies.set_read_policy,
    commands.RestoreVolume: apply_trash.restore,
    commands.PurgeVolume: apply_trash.purge,
}
_TIMED: dict[type, Callable[[State, Any, int], Change | Reason]] = {
    commands.BuildVolume: apply_volumes.build,
    commands.TrashVolume: apply_trash.trash,
}
"""Those that keep the time of their request."""
_NOT_KEPT = frozenset((commands.Barrier, commands.RenewLease, commands.SetLevel))


def apply(state: State, data: bytes) -> tuple[State, bytes]:
    """The tables after the log entry `data`, and its encoded Outcome. Never raises."""
    index, level = state.index + 1, state.level
    request = _decode(state, data)
    if isinstance(request, Malformed):
        return state._replace(index=index), codec.encode_outcome(Rejected(index, request), level)
    kept = type(request.command) not in _NOT_KEPT
    if kept:
        known = state.clients.get(request.client)
        digest = codec.command_digest(request.command)
        if known is not None and known.sequence == request.sequence and known.digest == digest:
            return state._replace(index=index), known.outcome
        refused = _client_problem(request, known)
        if refused is not None:
            return state._replace(index=index), codec.encode_outcome(Rejected(index, refused), level)
    result = _decide(state, request.command, request.at_ms)
    outcome = codec.encode_outcome(_bounded(_outcome(index, result), level), level)
    after = result.state if isinstance(result, Change) else state
    changes, remembered, clients = after.history, after.remembered, after.clients
    if isinstance(result, Change) and result.what:
        changes, remembered = _history(state, after, index, request, result)
    if kept:
        at_ms = request.at_ms if level >= levels.RESULTS_HAVE_TIME else 0
        kept_result = ClientResult(request.sequence, index, outcome, digest, at_ms)
        clients = dedupe.remember(clients, request.client, kept_result, level)
    return replace(after, index=index, clients=clients, history=changes, remembered=remembered), outcome


def apply_request(state: State, request: Request) -> tuple[State, Outcome]:
    """As `apply`, for callers that hold the values: encodes the request, decodes the outcome."""
    after, outcome = apply(state, codec.encode_request(request, state.level))
    return after, codec.decode_outcome(outcome)


def plan(state: State, command: Command, at_ms: int = 0) -> Outcome:
    """What `command` would do now, by the same code, whole; nothing is kept."""
    problem = _level_problem(state, codec.request_level(command, state.level), command)
    return _outcome(state.index + 1, problem or _decide(state, command, at_ms))


def _level_problem(state: State, level: int, command: Command) -> Malformed | None:
    """A request written for `level` (see `levels` for the rule). Its text is the same at every level."""
    brought = codec.level_brought(command)
    if level > state.level and level != brought:
        return Malformed(f"written for level {level} in a cluster of level {state.level}")
    if not levels.readable(brought) or brought > level:
        return Malformed(f"level {brought} is none that this request can bring about")
    return None


def _decode(state: State, data: bytes) -> Request | Malformed:
    if len(data) > MAX_REQUEST_BYTES:
        return Malformed(f"{len(data)} bytes are more than a request may have, {MAX_REQUEST_BYTES}")
    if nesting_exceeds(data, MAX_NESTING):
        return Malformed(f"more than {MAX_NESTING} containers inside one another")
    try:
        request = codec.decode_request(data)
    except codec.CodecError as error:
        return Malformed(checks.clipped(str(error)))
    if data[0] <= state.level and type(request.command) not in codec.BRING_LEVEL:
        return request  # as `_level_problem` would find, at less than half the time
    return _level_problem(state, data[0], request.command) or request


def _client_problem(request: Request, known: ClientResult | None) -> Reason | None:
    client = request.client
    if not 0 < len(client) <= MAX_CLIENT_CHARS or not client.isprintable():
        return Invalid("client", checks.shown(client), f"is not 1 to {MAX_CLIENT_CHARS} printable characters")
    if known is None or request.sequence > known.sequence:
        return None
    if request.sequence == known.sequence:
        return Invalid("request id", checks.shown(client), "was used for another change before")
    return Outdated("client", checks.shown(client))


def _decide(state: State, command: Command, at_ms: int) -> Change | Reason:
    if not state.cluster_id and not isinstance(command, commands.FormCluster):
        return NotFormed()
    handler = _HANDLERS.get(type(command))
    if handler is not None:
        return handler(state, command)
    return _TIMED[type(command)](state, command, at_ms)


def _outcome(index: int, result: Change | Reason) -> Outcome:
    if isinstance(result, Change):
        return Applied(index, volume=result.volume, real=result.real)
    return Rejected(index, result)


def _bounded(outcome: Outcome, level: int) -> Outcome:
    if isinstance(outcome, Rejected):
        return outcome
    if outcome.volume is None and outcome.real is None:
        return outcome
    most = MAX_OUTCOME_SEGMENTS_KEPT_LONG if level >= levels.RESULTS_HAVE_TIME else MAX_OUTCOME_SEGMENTS
    volume: Volume | None = outcome.volume
    if volume is not None and sum(len(r.segments) + len(r.moving) for r in volume.replicas) > most:
        volume = None
    real: RealVolume | None = outcome.real
    if real is not None and len(real.free) > most:
        real = None
    if volume is outcome.volume and real is outcome.real:
        return outcome
    return Applied(outcome.index, volume=volume, real=real)


def _history(
    before: State, after: State, index: int, request: Request, result: Change
) -> tuple[Chunked[MapChange], int]:
    replaced = None
    if before.level >= levels.REMEMBERS:
        replaced = history.remember(before, after, _touched(before, after, request.command))
    who = checks.clipped(request.who)
    change = MapChange(index, request.at_ms, who, result.what, result.name, replaced)
    return history.kept(after, change)


def _touched(before: State, after: State, command: Command) -> history.Touched:
    touched = _TOUCHED.get(type(command))
    return history.NOTHING if touched is None else touched(before, after, command)


def _one_volume(before: State, after: State, command: Any) -> history.Touched:
    return history.touched_by_volume(before, command.name, after)


def _copies_of(_before: State, _after: State, command: Any) -> history.Touched:
    """Free lists of real volumes stay as they are."""
    return history.Touched(volumes=(command.volume,))


def _copies_of_name(_before: State, _after: State, command: Any) -> history.Touched:
    return history.Touched(volumes=(command.name,))


def _move(before: State, after: State, command: commands.BeginMove) -> history.Touched:
    return history.touched_by_volume(before, command.volume, after)


def _trashed(_before: State, after: State, command: commands.TrashVolume) -> history.Touched:
    return history.Touched(volumes=(command.name,), trash=(max(after.trash),))


def _restored(before: State, _after: State, command: commands.RestoreVolume) -> history.Touched:
    name = command.name or before.trash[command.trash_id].name
    return history.Touched(volumes=(name,), trash=(command.trash_id,))


def _of_a_manager(before: State, after: State, _command: Any) -> history.Touched:
    names = [name for name, row in after.volumes.items() if row is not before.volumes.get(name)]
    ids = [id_ for id_, row in after.trash.items() if row is not before.trash.get(id_)]
    return history.Touched(volumes=tuple(sorted(names)), trash=tuple(sorted(ids)))


def _one_real(_before: State, _after: State, command: Any) -> history.Touched:
    return history.Touched(reals=(RealId(command.storage, command.lun),))


def _released_reals(before: State, _after: State, command: commands.ConfirmRelease) -> history.Touched:
    reals = reals_of(before.releases[command.release_id].segments)
    return history.Touched(reals=tuple(sorted(reals)))


_TOUCHED: dict[type, Callable[[State, State, Any], history.Touched]] = {
    commands.BuildVolume: _one_volume,
    commands.GrowVolume: _one_volume,
    commands.DeleteVolume: _one_volume,
    commands.ConfirmRelease: _released_reals,
    commands.SetStorage: lambda _before, _after, command: history.Touched(
        storages=(command.storage.address,)
    ),
    commands.RemoveStorage: lambda _before, _after, command: history.Touched(storages=(command.address,)),
    commands.ReopenVolumes: lambda _before, _after, command: history.Touched(epochs_of=command.manager),
    commands.AddRealVolume: _one_real,
    commands.SetRealVolumeState: _one_real,
    commands.RemoveRealVolume: _one_real,
    commands.Retire: _copies_of,
    commands.BeginResync: _copies_of,
    commands.Promote: _copies_of,
    commands.TakeOver: _copies_of,
    commands.MoveOwner: _copies_of,
    commands.LoseUnflushed: _copies_of,
    commands.SetHandingOver: _copies_of,
    commands.MoveSegments: _copies_of,
    commands.AbortMove: _copies_of,
    commands.RemoveCopy: _copies_of_name,
    commands.PauseCopy: _copies_of_name,
    commands.SetReadOnly: _copies_of_name,
    commands.SetReadPolicy: _copies_of_name,
    commands.AddCopy: _one_volume,
    commands.BeginMove: _move,
    commands.Rejoin: _of_a_manager,
    commands.ForceLost: _of_a_manager,
    commands.TrashVolume: _trashed,
    commands.RestoreVolume: _restored,
    commands.PurgeVolume: lambda _before, _after, command: history.Touched(trash=(command.trash_id,)),
}
