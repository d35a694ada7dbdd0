"""All tables as plain data that people can read: what `vimraft meta export` prints.

May live here: this one rendering. Sizes stay in sectors and units as the tables keep them; nothing is left
out but the encoded outcomes of requests, which only a retry needs, and what changes replaced.
"""

from typing import Any

import msgspec

from vimraft.core.tables import State


def _rows(table: Any) -> list[Any]:
    return [_named(msgspec.to_builtins(table[key], str_keys=True)) for key in sorted(table)]


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Segments and runs are arrays in the tables, for their size; people want names and last sectors."""
    if "free" in row:
        row["free"] = [{"first_unit": first, "units": units} for first, units in row["free"]]
    if "segments" in row:
        row["segments"] = [_segment(*segment) for segment in row["segments"]]
    for replica in row.get("replicas", ()):
        replica["segments"] = [_segment(*segment) for segment in replica["segments"]]
    return row


def _segment(virtual_first: int, sectors: int, storage: str, lun: int, real_first: int) -> dict[str, Any]:
    return {
        "virtual_first": virtual_first,
        "virtual_last": virtual_first + sectors - 1,
        "storage": storage,
        "lun": lun,
        "real_first": real_first,
        "real_last": real_first + sectors - 1,
    }


def export_tables(state: State) -> dict[str, Any]:
    """Keys are the names of the tables; equal tables give equal exports."""
    history = [msgspec.structs.replace(change, before=None) for change in state.history]
    return {
        "cluster_id": state.cluster_id,
        "index": state.index,
        "level": state.level,
        "settings": msgspec.to_builtins(state.settings),
        "managers": _rows(state.managers),
        "sites": _rows(state.sites),
        "storages": _rows(state.storages),
        "real_volumes": _rows(state.reals),
        "virtual_volumes": _rows(state.volumes),
        "releases": _rows(state.releases),
        "leases": _rows(state.leases),
        "clients": [
            {"client": client, "sequence": result.sequence, "index": result.index}
            for client, result in sorted(state.clients.items())
        ],
        "history": [msgspec.to_builtins(change) for change in history],
        "next_release_id": state.next_release_id,
        "next_local_number": state.next_local_number,
    }
