"""The annotated sample is loadable, complete, and the same that `site init` writes."""

import re
from pathlib import Path

import msgspec
import pytest

from tests.cli_case import invoke
from vimraft.cli.site_template import site_template
from vimraft.site import config
from vimraft.site.config import load_config

SAMPLE = Path(__file__).parents[3] / "deploy/site.example.toml"


def test_the_sample_loads() -> None:
    loaded = load_config(SAMPLE)
    assert (loaded.manager, loaded.sites[0].name) == ("tokyo", "tokyo")


def test_the_sample_is_the_template() -> None:
    assert SAMPLE.read_text() == site_template("tokyo", Path("/var/lib/vimraft"))


def test_commented_keys_load_too_and_show_their_defaults(tmp_path: Path) -> None:
    commented = re.compile(r"^# ([a-z_]+ = .*|\[tls\])$", re.MULTILINE)
    path = tmp_path / "site.toml"
    path.write_text(commented.sub(r"\1", SAMPLE.read_text()))
    everything, plain = load_config(path), load_config(SAMPLE)
    for section in ("raft", "data", "events", "log_level"):
        assert getattr(everything, section) == getattr(plain, section)


@pytest.mark.parametrize(
    "struct",
    [config.Config, config.SiteConfig, config.NetworkConfig, config.RaftConfig, config.DataConfig,
     config.EventsConfig, config.TlsConfig],
)  # fmt: skip
def test_every_key_is_explained(struct: type[msgspec.Struct]) -> None:
    text = SAMPLE.read_text()
    for key in struct.__struct_fields__:
        assert re.search(rf"^(# )?({key} = |\[+{key}\]+$)", text, re.MULTILINE), key


def test_site_init_writes_it_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    command = ("site", "init", "--config", str(path), "--manager", "kyoto", "--data-dir", "/srv/kyoto")
    assert invoke(*command).code == 0
    assert load_config(path).manager == "kyoto"
    assert load_config(path).data_dir == Path("/srv/kyoto")
    again = invoke(*command)
    assert again.code == 7
    assert "File exists" in again.err
