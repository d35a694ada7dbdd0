"""A PySyncObj that is not the one this package was written for stops the start, and is named."""

import inspect
import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import pysyncobj.journal
import pysyncobj.poller
import pysyncobj.syncobj
import pysyncobj.version
import pytest

from vimraft.metadata.pysyncobj import Misconfigured, PySyncObjConfig, open_log, selfcheck

PACKAGE = Path(selfcheck.__file__).parent


def test_the_installed_one_passes() -> None:
    selfcheck.check()


def test_every_private_name_in_use_is_in_the_list() -> None:
    listed = {*selfcheck.SYNCOBJ, *selfcheck.ATTRIBUTES}
    for path in PACKAGE.glob("*.py"):
        used = set(re.findall(r"_SyncObj(__[A-Za-z]+)", path.read_text()))
        assert used <= listed, f"{path.name}: add {used - listed} to selfcheck"


def refused(match: str) -> None:
    with pytest.raises(Misconfigured, match=match) as caught:
        selfcheck.check()
    assert "pip install pysyncobj==0.3.17" in str(caught.value)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj.version, "VERSION", "0.3.18")
    refused("pysyncobj is 0.3.18, not 0.3.17")


@pytest.mark.parametrize("name", ["_SyncObj__sendAppendEntries", "_SyncObj__loadDumpFile", "doTick"])
def test_a_missing_method_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(pysyncobj.syncobj.SyncObj, name)
    refused(f"{name} is missing")


def test_a_changed_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def setCurrentTerm(self: object, term: int, voted_for: str) -> None:
        """Another text."""

    monkeypatch.setattr(pysyncobj.syncobj.SyncObj, "_SyncObj__setCurrentTerm", setCurrentTerm)
    refused("__setCurrentTerm is not the text relied on to store term and vote")


def test_a_missing_attribute_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "ATTRIBUTES", {"__raftLogs": "keep the journal"})
    refused("SyncObj.__raftLogs is gone, relied on to keep the journal")


def test_changed_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj.poller.POLL_EVENT_TYPE, "ERROR", 8)
    refused("poller.POLL_EVENT_TYPE.ERROR is 8, not 4")


def test_a_reader_of_pickles_that_runs_commands_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.system("true") == 0
    monkeypatch.setattr(pysyncobj.journal, "loads", pickle.loads)
    refused("journal.loads reads pickles that run commands")


def test_a_constructor_that_does_not_take_our_journal_is_found() -> None:
    assert selfcheck._construct_until("createJournal")
    assert not selfcheck._construct_until("createJournalOfAnotherName")


def test_another_clock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", lambda: 0.0)
    refused("monotonicTime")


async def test_a_log_is_not_opened_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pysyncobj.version, "VERSION", "1.0")
    config = PySyncObjConfig(
        self_address="127.0.0.1:1", members=("127.0.0.1:1",), data_dir=tmp_path / "d", allow_plaintext=True
    )
    with pytest.raises(Misconfigured, match=r"pysyncobj is 1\.0"):
        await open_log(config)
    assert not (tmp_path / "d").exists()


def test_the_text_of_a_function_is_all_of_it() -> None:
    functions = [
        found
        for name in selfcheck._all_relied()
        if isinstance(found := selfcheck._find(name), types.FunctionType)
    ]
    assert len(functions) > 30
    for function in functions:
        assert selfcheck._lines_of(function).split() == inspect.getsource(function).split()


def test_a_start_without_tls_does_not_wait_for_cryptography() -> None:
    program = "import sys, vimraft.metadata.pysyncobj; sys.exit('cryptography' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parents[2], check=False).returncode == 0
    )
