"""Looking back, backups and new generations in words: why something is refused, and what to do.

May live here: functions that vimraft.api.advice calls in.
"""

from vimraft.api import caller_errors, errors
from vimraft.api.advice_codes import Advice, make_advice


def from_out_of_reach(error: errors.IndexOutOfReach) -> Advice:
    known = f"they are known from index {error.oldest} to {error.newest}"
    if error.index > error.newest:
        return make_advice("not_found", f"there is no index {error.index} yet", f"{known}: vimraft history")
    return make_advice(
        "not_found",
        f"the tables of index {error.index} are not kept any more",
        f"{known}; the setting history_changes and the size of what was replaced bound this. For older ones: "
        "vimraft meta export --from BACKUP",
    )


def from_meta_error(error: caller_errors.MetaError) -> Advice:
    match error:
        case caller_errors.FileExists():
            return make_advice(
                "usage", f"{error.path} exists already", "choose another name, or overwrite it with --force"
            )
        case caller_errors.BackupBad():
            return make_advice("local", error.problem, "")
        case caller_errors.NotTyped():
            return make_advice(
                "usage",
                f"{error.what} was not confirmed: nothing was changed",
                f"run it at a terminal and type what it asks for, or add {error.option}",
            )
        case _:
            return make_advice("internal", f"unexpected {type(error).__name__}", "please report this")
