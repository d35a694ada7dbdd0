"""The four tables, with the columns of the design."""

import msgspec
import pytest

from tests.core_cases import MIB, UNIT, build, real, three_sites
from vimraft.core.commands import GrowVolume, SetRealVolumeState
from vimraft.core.tables import Replica, Segment, State
from vimraft.core.views import VIEWS, real_free, real_identifying, virtual_identifying, virtual_sectors


def filled():
    """`db` (A) over tokyo and osaka, `logs` (B) at osaka; nagoya is empty."""
    tables = three_sites()
    tables.applied(build("logs", 10, sites=("osaka",)))
    tables.applied(build("db", 120, sectors=1))
    return tables


def test_every_table_has_the_columns_of_the_design():
    state = filled().state
    assert {name: view(state, "", 0, None)[:2] for name, view in VIEWS.items()} == {
        "real-identifying": (
            "Real volume identifying",
            ("local virtual volume name", "storage address", "LUN", "capacity"),
        ),
        "real-free": ("Real volume free capacity", ("storage address", "LUN", "class", "free capacity")),
        "virtual-identifying": (
            "Virtual volume identifying",
            ("common name", "site manager", "IP address", "local volume name", "free capacity"),
        ),
        "virtual-sectors": (
            "Virtual volume sectors",
            (
                "common name",
                "virtual sector range",
                "local volume name",
                "storage address",
                "LUN",
                "real sector range",
            ),
        ),
    }


def test_every_cell_has_a_column():
    state = filled().state
    for view in VIEWS.values():
        _, columns, rows = view(state, "", 0, None)
        assert rows
        assert all(len(row) == len(columns) for row in rows)


def test_real_identifying_shows_what_of_which_local_volume_lies_where():
    assert real_identifying(filled().state).rows == (
        ("B", "021a00", 0, 100 * MIB),
        ("A", "022a00", 0, 10 * MIB),
        ("B", "022a00", 0, 20 * MIB + 512),
        ("-", "023a00", 0, 100 * MIB),
    )


def test_real_free_shows_every_lun():
    tables = filled()
    tables.applied(real("021a00", 1, units=7, volume_class="slow-hdd"))
    assert real_free(tables.state).rows == (
        ("021a00", 0, "ssd", 0),
        ("021a00", 1, "slow-hdd", 7 * MIB),
        ("022a00", 0, "ssd", 69 * MIB),
        ("023a00", 0, "ssd", 100 * MIB),
    )


def test_virtual_identifying_shows_owner_address_and_what_its_pool_has_left():
    tables = filled()
    assert virtual_identifying(tables.state).rows == (
        ("db", "m-tokyo", "10.0.0.1", "B", 169 * MIB),
        ("logs", "m-osaka", "10.0.0.2", "A", 69 * MIB),
    )
    tables.applied(SetRealVolumeState("023a00", 0, "failed", "gone"))
    assert virtual_identifying(tables.state, "db").rows[0][4] == 69 * MIB


def test_virtual_sectors_shows_inclusive_ranges():
    assert virtual_sectors(filled().state).rows == (
        ("db", f"0–{100 * UNIT - 1}", "B", "021a00", 0, f"{UNIT}–{101 * UNIT - 1}"),
        ("db", f"{100 * UNIT}–{120 * UNIT}", "B", "022a00", 0, f"{11 * UNIT}–{31 * UNIT}"),
        ("logs", f"0–{10 * UNIT - 1}", "A", "022a00", 0, f"{UNIT}–{11 * UNIT - 1}"),
    )


@pytest.mark.parametrize(
    ("view", "name", "rows"),
    [
        (virtual_sectors, "db", 2),
        (virtual_sectors, "nothing", 0),
        (virtual_identifying, "logs", 1),
        (real_free, "022a00", 1),
        (real_free, "022a00:0", 1),
        (real_identifying, "022a00:0", 2),
        (real_identifying, "022a00:1", 0),
    ],
)
def test_a_name_narrows_a_table(view, name, rows):
    assert len(view(filled().state, name).rows) == rows


@pytest.mark.parametrize("key", sorted(VIEWS))
def test_pages_put_together_are_the_table(key):
    tables = filled()
    tables.applied(build("more", 60))
    tables.applied(GrowVolume("logs", 15 * UNIT))
    view, state = VIEWS[key], tables.state
    whole = view(state, "", 0, None).rows
    for size in (1, 2, 3, len(whole), 100):
        pages = [view(state, "", offset, size).rows for offset in range(0, len(whole) + size, size)]
        assert all(len(page) <= size for page in pages)
        assert tuple(row for page in pages for row in page) == whole
    assert view(state, "", 0, 0).rows == ()
    assert view(state, "", -5, 1).rows == whole[:1]


def test_copies_show_one_row_each_for_the_same_virtual_range():
    tables = filled()
    volume = tables.state.volumes["logs"]
    copy = Replica(
        "Z", "in_sync", (Segment(0, UNIT, "023a00", 0, UNIT), Segment(UNIT, 9 * UNIT, "021a00", 0, UNIT))
    )
    copied = msgspec.structs.replace(volume, replicas=(*volume.replicas, copy))
    state = tables.state._replace(volumes=tables.state.volumes.set("logs", copied))
    rows = virtual_sectors(state, "logs").rows
    assert rows == (
        ("logs", f"0–{UNIT - 1}", "A", "022a00", 0, f"{UNIT}–{2 * UNIT - 1}"),
        ("logs", f"0–{UNIT - 1}", "Z", "023a00", 0, f"{UNIT}–{2 * UNIT - 1}"),
        ("logs", f"{UNIT}–{10 * UNIT - 1}", "A", "022a00", 0, f"{2 * UNIT}–{11 * UNIT - 1}"),
        ("logs", f"{UNIT}–{10 * UNIT - 1}", "Z", "021a00", 0, f"{UNIT}–{10 * UNIT - 1}"),
    )
    for offset in range(5):
        assert virtual_sectors(state, "logs", offset, 2).rows == rows[offset : offset + 2]


def test_empty_tables_have_titles_and_no_rows():
    for view in VIEWS.values():
        assert view(State(), "", 0, None).rows == ()
