"""Links with certificates: who is let in, who is refused and told why."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.raft_links import LARGE, Authority, Make, large_message, linked, refused, run_for, run_until
from vimraft.metadata.pysyncobj.errors import Misconfigured
from vimraft.metadata.pysyncobj.tls import check_tls


def test_links_with_certificates(make: Make, two: tuple[str, str], tmp_path: Path) -> None:
    low, high = two
    ca = Authority(tmp_path / "ca")
    a, b = make(low, high, tls=ca.issue(low)), make(high, low, tls=ca.issue(high))
    linked(a, b)
    for number in range(8):
        sent = large_message(number)
        assert a.send(high, sent)
        assert b.send(low, sent)
    run_until([a, b], lambda: len(b.received) == len(a.received) == 8, "8 MiB each way")
    assert all(m["serialized"][0] == LARGE for _, m in b.received)


def test_a_certificate_of_another_address_is_refused_at_both_ends(
    make: Make, two: tuple[str, str], tmp_path: Path
) -> None:
    low, high = two
    ca = Authority(tmp_path / "ca")
    wrong = ca.issue("127.0.0.1:1")
    a, b = make(low, high, tls=ca.issue(low)), make(high, low, tls=wrong)
    assert "wrong-address" in refused(a, b, at=a, other=b)
    assert "refused by it as wrong-address" in b.why(low)
    b.close()
    a.close()
    a, b = make(low, high, tls=wrong), make(high, low, tls=ca.issue(high))
    assert "wrong-address" in refused(a, b, at=b, other=a)


def test_an_expired_certificate_is_refused(
    make: Make, two: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = two
    ca = Authority(tmp_path / "ca")
    expired = ca.issue_expired(low, monkeypatch)
    with pytest.raises(Misconfigured, match="expired on"):
        check_tls(expired, low)
    a, b = make(low, high, tls=expired), make(high, low, tls=ca.issue(high))
    assert "certificate has expired" in refused(a, b, at=b, other=a)
    a.close()
    b.close()
    a = make(low, high, tls=ca.issue(low))
    b = make(high, low, tls=ca.issue_expired(high, monkeypatch))
    assert "refuses this manager's certificate" in refused(a, b, at=b, other=a)


def test_a_certificate_of_another_ca_is_refused(make: Make, two: tuple[str, str], tmp_path: Path) -> None:
    low, high = two
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    a, b = make(low, high, tls=ours.issue(low)), make(high, low, tls=theirs.issue(high))
    assert "certificate is refused" in refused(a, b, at=b, other=a)
    assert not a.received


@pytest.mark.parametrize(
    ("encrypted", "says"),
    [("answerer", "it speaks without TLS, here TLS is required"), ("dialler", "it speaks TLS")],
)
def test_plain_and_tls_do_not_mix(
    make: Make,
    two: tuple[str, str],
    tmp_path: Path,
    encrypted: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    low, high = two
    ca = Authority(tmp_path / "ca")
    a = make(low, high, tls=ca.issue(low) if encrypted == "answerer" else None)
    b = make(high, low, tls=ca.issue(high) if encrypted == "dialler" else None)
    run_until([a, b], lambda: a.links.counters["offended"] >= 2, "two attempts")
    assert not a.connected
    assert not b.connected
    assert says in capsys.readouterr().out


def test_a_renewed_certificate_is_used_for_new_links(
    make: Make, two: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = two
    ca = Authority(tmp_path / "ca")
    files = ca.issue_expired(low, monkeypatch)
    a, b = make(low, high, tls=files), make(high, low, tls=ca.issue(high))
    refused(a, b, at=b, other=a)
    good = ca.issue(low)
    Path(files.key).write_text("half")  # a renewal that is under way
    run_for([a, b], 0.3)
    Path(files.key).write_bytes(Path(good.key).read_bytes())
    Path(files.cert).write_bytes(Path(good.cert).read_bytes())
    linked(a, b)


@pytest.mark.parametrize("broken", ["missing", "garbage", "other key", "other ca", "other address"])
def test_unusable_files_are_named_at_start(tmp_path: Path, broken: str) -> None:
    ca, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    good, second = ca.issue("127.0.0.1:1"), ca.issue("127.0.0.1:2")
    check_tls(good, "127.0.0.1:1")
    files = SimpleNamespace(ca=good.ca, cert=good.cert, key=good.key)
    if broken == "missing":
        Path(files.cert).unlink()
    elif broken == "garbage":
        Path(files.key).write_text("garbage")
    elif broken == "other key":
        files.key = second.key
    elif broken == "other ca":
        files.ca = str(other.directory / "ca.crt")
    address = "127.0.0.1:3" if broken == "other address" else "127.0.0.1:1"
    with pytest.raises(Misconfigured, match=r"tls: .*vimraft tls|tls: .*PEM"):
        check_tls(files, address)
