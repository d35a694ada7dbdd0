"""`vimraft tls`: files that a manager accepts, private keys that stay private, problems explained."""

import stat
from pathlib import Path

import pytest

from tests.cli_case import invoke
from vimraft.metadata.pysyncobj import TlsFiles
from vimraft.metadata.pysyncobj.tls import check_tls

ADDRESS = "192.0.2.7:7101"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    directory = tmp_path / "ca"
    assert invoke("tls", "init", str(directory), "--cluster", "east").code == 0
    return directory


def test_issued_files_are_what_a_manager_needs(ca: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokyo"
    done = invoke(
        "tls", "issue", "tokyo", "--raft", ADDRESS, "--ca", str(ca), "--out", str(out), "-o", "json"
    )
    assert done.code == 0
    files = TlsFiles(**done.json())
    assert files.cert == str(out / "tokyo.crt")
    check_tls(files, ADDRESS)


def test_private_keys_are_for_their_owner_alone(ca: Path) -> None:
    invoke("tls", "issue", "tokyo", "--raft", ADDRESS, "--ca", str(ca))
    for name in ("ca.key", "tokyo.key"):
        assert stat.S_IMODE((ca / name).stat().st_mode) == 0o600


def test_show_says_for_whom_and_until_when(ca: Path) -> None:
    invoke("tls", "issue", "tokyo", "--raft", ADDRESS, "--ca", str(ca), "--days", "10")
    shown = invoke("tls", "show", str(ca / "tokyo.crt"), "-o", "json").json()
    assert shown["raft_addresses"] == [ADDRESS]
    assert not shown["expired"]
    assert not shown["is_ca"]
    assert ADDRESS in invoke("tls", "show", str(ca / "tokyo.crt")).out
    shown = invoke("tls", "show", str(ca / "ca.crt"), "-o", "json").json()
    assert shown["is_ca"]
    assert "east" in shown["subject"]
    assert int(shown["valid_until"][:4]) - int(shown["valid_from"][:4]) in (9, 10)


def test_renewal_replaces_the_pair(ca: Path) -> None:
    command = ("tls", "issue", "tokyo", "--raft", ADDRESS, "--ca", str(ca))
    invoke(*command)
    before = (ca / "tokyo.crt").read_bytes()
    assert invoke(*command).code == 0
    assert (ca / "tokyo.crt").read_bytes() != before
    files = TlsFiles(ca=str(ca / "ca.crt"), cert=str(ca / "tokyo.crt"), key=str(ca / "tokyo.key"))
    check_tls(files, ADDRESS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("init", "{ca}"), "exists"),
        (("issue", "tokyo", "--raft", "nowhere", "--ca", "{ca}"), "HOST:PORT"),
        (("issue", "to/kyo", "--raft", ADDRESS, "--ca", "{ca}"), "NAME"),
        (("issue", "ca", "--raft", ADDRESS, "--ca", "{ca}"), "NAME"),
        (("issue", "tokyo", "--raft", ADDRESS, "--ca", "{ca}/none"), "vimraft tls init"),
        (("show", "{ca}/ca.key"), "not a PEM certificate"),
        (("show", "{ca}/none"), "No such file"),
    ],
)
def test_problems_name_thing_and_remedy(ca: Path, arguments: tuple[str, ...], says: str) -> None:
    done = invoke("tls", *(argument.format(ca=ca) for argument in arguments))
    assert done.code not in (0, 1)
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_ca_is_never_overwritten(ca: Path) -> None:
    before = {path.name: path.read_bytes() for path in ca.iterdir()}
    assert invoke("tls", "init", str(ca)).code != 0
    assert before == {path.name: path.read_bytes() for path in ca.iterdir()}
