"""Deleting, saving, draining and migrating in words: why something is refused, and what to do.

May live here: one branch per fault; vimraft.api.advice calls in.
"""

from vimraft.api import errors
from vimraft.api.advice_codes import NOTHING_LOST, Advice, listed, make_advice
from vimraft.api.units import format_bytes


def from_move_fault(error: errors.MoveFault) -> Advice:
    match error:
        case errors.ClientsAttached():
            return make_advice(
                "conflict",
                f"virtual volume {error.name!r} is in use: clients are attached at {listed(error.managers)}",
                "detach it there first (vimraft detach); --force does it although they lose it; "
                f"{NOTHING_LOST}",
            )
        case errors.LevelTooLow():
            return make_advice(
                "rejected",
                f"{error.name} needs level {error.needed}, and the cluster is at level {error.level}",
                "once all managers run this release: vimraft meta upgrade",
            )
        case errors.RealFailed():
            why = f" ({error.why})" if error.why else ""
            return make_advice(
                "conflict",
                f"real volume {error.name} has failed{why}: what lies on it cannot be moved",
                f"when the device is right again: vimraft real include {error.name}; copies on it are made "
                "anew with vimraft copy rm and copy add",
            )
        case errors.JobCancelled():
            return make_advice(
                "conflict", f"{error.name} was cancelled", "start it again: it goes on with what is left"
            )
        case errors.NotCancellable():
            return make_advice(
                "rejected", f"{error.name} cannot be cancelled (any more)", "see it with: vimraft job ls"
            )
        case errors.ChangedMeanwhile():
            return make_advice(
                "conflict",
                f"virtual volume {error.name!r} is not the one any more that this was begun with",
                "somebody deleted or renamed it meanwhile: vimraft history",
            )
        case errors.VolumeIo():
            return make_advice(
                "local",
                f"virtual volume {error.name!r}: {error.what}",
                "see whether its owner serves it (vimraft status), then start this again; the volume itself "
                "was not deleted",
            )
        case _:
            return _from_save_fault(error)


def _from_save_fault(error: errors.MoveFault) -> Advice:
    match error:
        case errors.TargetNotEmptied():
            return make_advice(
                "conflict",
                f"virtual volume {error.name!r} exists already; saving overwrites it",
                "save to a new name, or let it go with --overwrite",
            )
        case errors.TargetTooSmall():
            return make_advice(
                "rejected",
                f"virtual volume {error.name!r} has {format_bytes(error.size_bytes, 'down')}, and "
                f"{format_bytes(error.needed_bytes, 'up')} are needed",
                f"make it larger (vimraft vol grow {error.name}), or save to a new volume",
            )
        case errors.SavedDiffers():
            return make_advice(
                "local",
                f"virtual volume {error.target!r} does not hold what {error.name!r} holds at byte "
                f"{error.offset}: nothing was deleted",
                "nobody else may write to the target meanwhile; check its real volumes (vimraft real ls), "
                "then save again",
            )
        case _:
            return make_advice("internal", f"unexpected {type(error).__name__}", "please report this")
