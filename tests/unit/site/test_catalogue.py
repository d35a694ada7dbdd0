"""The site's own database keeps events, load and the last tables, and never keeps a site from starting."""

import contextlib
import sqlite3
from pathlib import Path

from tests.core_cases import build, three_sites
from tests.storage_fixture import small_tmpfs
from vimraft.core.codec import state_digest
from vimraft.site.catalogue import PRUNE_EVERY, Catalogue, NewEvent


async def opened(path: Path, *, keep_events: int = 1000) -> Catalogue:
    return await Catalogue.open(path, site="tokyo", keep_events=keep_events, keep_load_hours=1)


def event(number: int, dedupe: str | None = None) -> NewEvent:
    return NewEvent(
        name="map.built", subject=f"v{number}", severity="info", message="built", at_ms=number, dedupe=dedupe
    )


async def test_events_come_back_oldest_first_and_page_by_id(tmp_path: Path) -> None:
    catalogue = await opened(tmp_path / "c.sqlite")
    await catalogue.record([event(n) for n in range(10)])
    newest = await catalogue.events(after=-1, limit=3)
    assert [e.subject for e in newest] == ["v7", "v8", "v9"]
    page = await catalogue.events(after=newest[0].id, limit=1)
    assert [e.subject for e in page] == ["v8"]
    assert page[0].site == "tokyo"
    await catalogue.close()


async def test_the_same_change_seen_again_after_a_restart_is_one_event(tmp_path: Path) -> None:
    catalogue = await opened(tmp_path / "c.sqlite")
    await catalogue.record([event(1, "map:1")])
    await catalogue.close()
    catalogue = await opened(tmp_path / "c.sqlite")
    await catalogue.record([event(1, "map:1"), event(2, "map:2")])
    assert [e.subject for e in await catalogue.events(after=-1, limit=9)] == ["v1", "v2"]
    await catalogue.close()


async def test_old_events_go(tmp_path: Path) -> None:
    catalogue = await opened(tmp_path / "c.sqlite", keep_events=5)
    for number in range(PRUNE_EVERY):
        await catalogue.record([event(number)])
    kept = await catalogue.events(after=-1, limit=1000)
    assert [e.at_ms for e in kept] == list(range(PRUNE_EVERY - 5, PRUNE_EVERY))
    await catalogue.close()


async def test_the_last_tables_can_be_read_without_a_cluster(tmp_path: Path) -> None:
    tables = three_sites()
    tables.applied(build("alpha", 3))
    catalogue = await opened(tmp_path / "c.sqlite")
    assert await catalogue.tables() is None
    await catalogue.save_tables(tables.state, 1234)
    await catalogue.close()
    catalogue = await opened(tmp_path / "c.sqlite")
    saved = await catalogue.tables()
    assert saved is not None
    assert state_digest(saved[0]) == state_digest(tables.state)
    assert saved[1] == 1234
    await catalogue.close()


async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"this is no database at all" * 500)
    catalogue = await opened(path)
    await catalogue.record([event(1)])
    assert len(await catalogue.events(after=-1, limit=9)) == 1
    assert len(list(tmp_path.glob("c.sqlite.damaged-*"))) == 1
    await catalogue.close()


async def test_load_older_than_its_retention_goes(tmp_path: Path) -> None:
    catalogue = await opened(tmp_path / "c.sqlite")
    hour_ms = 3_600_000
    await catalogue.record_load(0, [("a:1", 1, 2, 3, 4, 5, 6)])
    await catalogue.record_load(hour_ms + 1, [("a:1", 7, 2, 3, 4, 5, 6)])
    cursor = await catalogue._db.execute("SELECT at_ms, read_iops FROM load")
    assert [tuple(row) for row in await cursor.fetchall()] == [(hour_ms + 1, 7.0)]
    await catalogue.close()


async def test_a_full_disk_is_no_reason_to_set_a_healthy_database_aside(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", "900k") as directory:
        path = directory / "c.sqlite"
        catalogue = await opened(path)
        await catalogue.record([event(1)])
        await catalogue.close()
        with (directory / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with contextlib.suppress(sqlite3.OperationalError):
            catalogue = await opened(path)
            await catalogue.record([event(2)] * 500)  # says so in the log, raises nothing
            await catalogue.close()
        assert not list(directory.glob("*.damaged-*"))
        (directory / "fill").unlink()
        catalogue = await opened(path)
        assert (await catalogue.events(after=-1, limit=9))[0].subject == "v1"
        await catalogue.close()
