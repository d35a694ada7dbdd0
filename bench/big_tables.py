"""Tables of 100,000 segments for a real cluster: made once, written as every manager's snapshot.

By commands it would take as many commands as segments (each makes one cut). So a cluster is formed with real
managers and real volumes, stopped, and started again from a snapshot in which volumes are scattered over
every second unit. The managers cannot tell: it is their own format, and every invariant of the tables holds.
May live here: making and planting that snapshot.
"""

import sqlite3
from pathlib import Path

import msgspec

from tests.cluster_fixture import Cluster, Site
from vimraft.core.apply_volumes import local_name
from vimraft.core.codec import decode_state
from vimraft.core.ids import VolumeName
from vimraft.core.invariants import check
from vimraft.core.tables import RealVolume, Replica, Run, Segment, State, Volume
from vimraft.metadata.pysyncobj.disk import OsDisk
from vimraft.metadata.pysyncobj.identity import make
from vimraft.metadata.pysyncobj.members import Member
from vimraft.metadata.pysyncobj.recovery import rewrite
from vimraft.metadata.pysyncobj.snapshot_file import Snapshot

VOLUMES = 10
SECTORS_PER_UNIT = 2_048
VOLUME_CLASS = "ssd"
NO_OP = b"\x01"
"""PySyncObj's empty log entry."""


def real_mib(segments: int, sites: int) -> int:
    """Size of the sparse real volume that each site needs."""
    return 2 * (segments // VOLUMES) * -(-VOLUMES // sites)


def last_tables(site: Site) -> State:
    """What a stopped manager's catalogue holds."""
    with sqlite3.connect(f"file:{site.data_dir / 'catalogue.sqlite'}?mode=ro", uri=True) as db:
        (data,) = db.execute("SELECT state FROM tables WHERE id = 1").fetchone()
    return decode_state(data)


def scattered(state: State, segments: int) -> State:
    """VOLUMES volumes, by turns at each real volume; every second unit of a real volume is in use."""
    each = segments // VOLUMES
    reals = sorted(state.reals.values(), key=lambda real: real.id)
    used = dict.fromkeys((real.id for real in reals), 0)
    volumes = state.volumes
    for number in range(VOLUMES):
        real = reals[number % len(reals)]
        volume = _volume(state, real, number, each, used[real.id])
        used[real.id] += each
        volumes = volumes.set(volume.name, volume)
    tables = state.reals
    for real in reals:
        tables = tables.set(real.id, msgspec.structs.replace(real, free=_free(real, used[real.id])))
    made = state._replace(
        index=state.index + 1,
        reals=tables,
        volumes=volumes,
        next_local_number=state.next_local_number + VOLUMES,
    )
    broken = check(made)
    assert not broken, broken[:3]
    return made


def _volume(state: State, real: RealVolume, number: int, count: int, skip: int) -> Volume:
    segments = tuple(
        Segment(
            i * SECTORS_PER_UNIT,
            SECTORS_PER_UNIT,
            real.storage,
            real.lun,
            (2 * (skip + i) + 1) * SECTORS_PER_UNIT,
        )
        for i in range(count)
    )
    owner = state.sites[real.site].manager
    return Volume(
        name=VolumeName(f"big{number}"),
        size_sectors=count * SECTORS_PER_UNIT,
        volume_class=real.volume_class,
        owner=owner,
        epoch=state.index + 1,
        replicas=(Replica(local_name(state.next_local_number + number), "in_sync", segments),),
        sites=(real.site,),
        created_ms=1,
        created_by=owner,
    )


def _free(real: RealVolume, used: int) -> tuple[Run, ...]:
    """Units 1, 3, 5 … are used: what is free between them, and the rest behind the last."""
    between = [Run(2 * i + 2, 1) for i in range(used)]
    last_unit = real.capacity_units
    end = 2 * used
    if used and end < last_unit:
        between[-1] = Run(end, last_unit - end + 1)
    return tuple(between) if used else (Run(1, last_unit),)


def plant(cluster: Cluster, state: State) -> None:
    """Every (stopped) manager finds these tables as its snapshot, and an empty journal."""
    members = sorted(site.raft for site in cluster.sites.values())
    for site in cluster.sites.values():
        raft: Path = site.data_dir / "raft"
        for path in raft.iterdir():
            if path.is_file():
                path.unlink()
        identity = make(members)
        ends = (NO_OP, state.index, 1), (NO_OP, state.index + 1, 1)
        voters = tuple(Member(address) for address in members)
        rewrite(OsDisk(raft), Snapshot(voters, *ends, state, identity.cluster, identity.generation), identity)
