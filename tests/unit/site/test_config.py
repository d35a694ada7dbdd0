"""The configuration file: defaults, and errors that name file, key and remedy."""

from pathlib import Path

import pytest

from vimraft.site.config import ConfigError, load_config, split_address

GOOD = """
manager = "tokyo"
data_dir = "/var/lib/vimraft/tokyo"
[network]
allow_plaintext = true
raft = "127.0.0.1:7001"
api = "127.0.0.1:7002"
nbd = "127.0.0.1:7003"
peer = "127.0.0.1:7004"
[[sites]]
name = "tokyo"
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "site.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_the_annotated_sample_loads() -> None:
    sample = Path(__file__).parents[3] / "deploy" / "site.example.toml"
    config = load_config(sample)
    assert config.sites
    assert config.raft.members


def test_a_small_file_gets_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.raft.heartbeat_ms < config.raft.election_min_ms
    assert config.api_url == "http://127.0.0.1:7002"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (('manager = "tokyo"', 'manager = "to kyo"'), "manager 'to kyo'"),
        (('manager = "tokyo"', 'manager = "tokyo"\nspeed = 3'), "speed"),
        (("/var/lib", "var/lib"), "not absolute"),
        (("127.0.0.1:7003", "127.0.0.1:99999"), "network.nbd"),
        (("127.0.0.1:7001", "192.0.2.7:7001"), "vimraft tls init"),
        (("allow_plaintext = true", ""), "vimraft tls init"),
        (("[[sites]]", "[tls]\nca = 'a'\ncert = '/b'\nkey = '/c'\n[[sites]]"), "tls.ca a is not absolute"),
        (("[[sites]]", "[tls]\nca = '/a'\n[[sites]]"), "cert"),
        (('name = "tokyo"', 'name = "tokyo"\n[[sites]]\nname = "tokyo"'), "listed twice"),
        (("[network]", "[raft]\nheartbeat_ms = 900\n[network]"), "raft timings"),
        (("[network]", "[raft]\nmembers = ['nowhere']\n[network]"), "raft.members"),
        (("[network]", "[network"), "not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_file_and_the_key(
    tmp_path: Path, change: tuple[str, str], names: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(*change))
    assert names in str(caught.value)
    assert "site.toml" in str(caught.value)


TLS = "[tls]\nca = '/a'\ncert = '/b'\nkey = '/c'\n[[sites]]"


def test_other_hosts_are_allowed_when_asked_for(tmp_path: Path) -> None:
    text = GOOD.replace("127.0.0.1:7004", "192.0.2.7:7004")
    assert load(tmp_path, text).network.peer == "192.0.2.7:7004"
    text = text.replace("allow_plaintext = true", "").replace("[[sites]]", TLS)
    with pytest.raises(ConfigError, match="network.peer"):
        load(tmp_path, text)


def test_raft_with_certificates_may_be_anywhere(tmp_path: Path) -> None:
    text = GOOD.replace("127.0.0.1:7001", "192.0.2.7:7001").replace("[[sites]]", TLS)
    tls = load(tmp_path, text).tls
    assert tls is not None
    assert tls.cert == Path("/b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.toml"):
        load_config(tmp_path / "none.toml")


def test_addresses_of_both_families() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address("host")
