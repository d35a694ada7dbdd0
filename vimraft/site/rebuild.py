"""A cluster made anew: from the log of one survivor (`meta recover`), or from a backup (`meta restore`).

Offline, on the host of a stopped manager. Both end in a new *generation* of the cluster, in which this
manager is the only member: whoever has the older generation is refused by it, must be emptied and join
again. Nothing is deleted: the log that was there is kept beside the new one. An interruption leaves the old
directory or the new one in force, see `directory`.

`survey_*` looks and changes nothing; what it returns says all that an operator must know before agreeing, and
`carry_out` does it. May live here: these two ways, and the facts about what is lost.
"""

import secrets
import time
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vimraft import __version__
from vimraft.core.levels import LATEST
from vimraft.core.rebirth import OFFSETS, reborn
from vimraft.core.tables import State
from vimraft.metadata.backup import MAX_BACKUP_BYTES, BackupHeader, BadBackup, decode_backup, problems
from vimraft.metadata.port import LogError
from vimraft.metadata.pysyncobj import offline
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.site.backups import remember_run
from vimraft.site.config import Config
from vimraft.site.directory import StartError, put_in_place

MAX_LISTED: Final = 16


class Survey(Struct, frozen=True):
    """What would be done, and what would be lost."""

    action: Literal["recover", "restore"]
    cluster_id: str
    manager: str
    generation_before: int
    generation: int
    index: int
    """The tables end here: changes after it are lost, if there were any."""
    at_ms: int
    """When the backup was taken, or the last change that the log knows was made."""
    undecided: int
    """Commands at the end of the log that may never have been acknowledged; they count from now on."""
    volumes: int
    others: tuple[str, ...]
    """Managers of the tables that are left behind: they must be emptied and join again."""
    others_volumes: tuple[str, ...]
    """Volumes that those own: not served until their manager has joined again."""
    unclean_bytes: int
    """Free space that is zeroed again before it is given out."""
    problems: tuple[str, ...]
    """What the guarantees of the tables find wrong."""
    replaces_log: bool
    """A log is there already; it is kept aside."""


class Done(Struct, frozen=True):
    cluster_id: str
    generation: int
    index: int
    kept: str
    """Where the log that was there is now; '' if there was none."""


class Prepared(Struct, frozen=True):
    survey: Survey
    state: State
    cluster: str
    after: offline.Found | None


def raft_config(config: Config) -> PySyncObjConfig:
    """Enough to read the directory."""
    return PySyncObjConfig(
        self_address=config.network.raft, members=(config.network.raft,), data_dir=config.data_dir
    )


def read_log(config: Config) -> offline.Found | None:
    """Raises StartError."""
    try:
        return offline.read_log(raft_config(config))
    except LogError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(
            f"{config.data_dir}: {error.strerror or error}; make it readable for this user"
        ) from None


def survey_recover(config: Config) -> Prepared:
    """Raises StartError."""
    found = read_log(config)
    if found is None or not found.state.cluster_id:
        raise StartError(
            f"{config.data_dir / 'raft'} holds no tables: recover at a manager that has some, or restore a "
            "backup with: vimraft meta restore FILE --config FILE"
        )
    if found.voters == (config.network.raft,):
        raise StartError(
            f"manager {config.manager} is the only voter of its cluster: it needs nobody else; start it "
            "with: vimraft site run"
        )
    state = found.state
    last_ms = state.history[-1].at_ms if state.history else 0
    survey = _survey(
        config, state, "recover", before=found.identity.generation, at_ms=last_ms, undecided=found.undecided
    )
    cluster = found.identity.cluster or offline.cluster_of(found.members)
    return Prepared(survey, state, cluster, found)


def survey_restore(config: Config, path: Path, *, replace: bool) -> Prepared:
    """Raises StartError, BadBackup, OSError."""
    backup = decode_backup(read_backup(path), str(path))
    header, state = backup
    wrong = problems(backup)
    raft = config.data_dir / "raft"
    if offline.holds_log(raft) and not replace:
        raise StartError(
            f"{raft} holds a log already. If the managers of its cluster still have a majority, start them; "
            "a survivor goes on with: vimraft meta recover. To put the backup in its place (the log is kept "
            "aside): add --replace"
        )
    before = max(header.generation, offline.generation_of(raft))
    survey = _survey(config, state, "restore", before=before, at_ms=header.at_ms, undecided=0)
    survey = msgspec.structs.replace(
        survey, problems=tuple(wrong[:MAX_LISTED]), replaces_log=offline.holds_log(raft)
    )
    return Prepared(survey, state, header.cluster or offline.cluster_of(header.members), None)


def read_backup(path: Path) -> bytes:
    """Raises BadBackup, OSError."""
    if path.stat().st_size > MAX_BACKUP_BYTES:
        raise BadBackup(f"{path}: too large for a backup. Name a file that vimraft meta backup wrote")
    return path.read_bytes()


def _survey(
    config: Config,
    state: State,
    action: Literal["recover", "restore"],
    *,
    before: int,
    at_ms: int,
    undecided: int,
) -> Survey:
    free_units = sum([real.free_units for real in state.reals.values()])
    foreign = sorted(v.name for v in state.volumes.values() if v.owner != config.manager)
    return Survey(
        action=action,
        cluster_id=state.cluster_id,
        manager=config.manager,
        generation_before=before,
        generation=before + 1,
        index=state.index,
        at_ms=at_ms,
        undecided=undecided,
        volumes=len(state.volumes),
        others=tuple(sorted(name for name in state.managers if name != config.manager)),
        others_volumes=tuple(foreign[:MAX_LISTED]),
        unclean_bytes=free_units * state.settings.unit_bytes,
        problems=(),
        replaces_log=action == "recover",
    )


def carry_out(config: Config, prepared: Prepared, who: str) -> Done:
    """Raises OSError, StartError; then the directory is what it was."""
    survey = prepared.survey
    what = "recovered" if survey.action == "recover" else "restored"
    state = reborn(
        prepared.state, at_ms=int(time.time() * 1e3), who=who, what=what, offset=secrets.randbelow(OFFSETS)
    )
    birth = offline.new_birth()

    def build(directory: Path) -> None:
        offline.write_generation(
            directory,
            state,
            self_address=config.network.raft,
            cluster=prepared.cluster,
            generation=survey.generation,
            after=prepared.after,
            birth=birth,
        )

    raft = config.data_dir / "raft"
    if raft.exists() and not offline.holds_log(raft):
        (raft / "lock").unlink(missing_ok=True)
        raft.rmdir()
    try:
        kept = put_in_place(config.data_dir, build, f"raft.before-generation-{survey.generation}")
    except LogError as error:
        raise StartError(f"{error}; the directory is what it was") from None
    remember_run(config.data_dir, LATEST)
    return Done(
        cluster_id=state.cluster_id,
        generation=survey.generation,
        index=state.index,
        kept=str(kept) if kept is not None else "",
    )


def header_of_log(config: Config, found: offline.Found, state: State, who: str) -> BackupHeader:
    """For a backup of what a stopped manager's log holds, before another release touches it."""
    return BackupHeader(
        cluster_id=state.cluster_id,
        index=state.index,
        level=state.level,
        cluster=found.identity.cluster,
        generation=found.identity.generation,
        at_ms=int(time.time() * 1e3),
        manager=config.manager,
        who=who,
        release=__version__,
        kind="before-upgrade",
        quorum=False,
        members=found.members,
    )
