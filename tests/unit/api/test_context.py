"""The cluster is found through options, then files, in a fixed order."""

from pathlib import Path

import pytest

from vimraft.api import context
from vimraft.api.caller_errors import BadArgument, BadFile, NoContext


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIMRAFT_CONTEXT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "checkout/.venv"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_checkout_of_the_virtual_environment_comes_before_home(tmp_path: Path) -> None:
    write(tmp_path / "home/.config/vimraft/context.toml", 'api = ["http://home:1"]')
    assert context.load_context().urls == ("http://home:1",)
    write(tmp_path / "checkout/.vimraft/context.toml", 'api = ["http://here:1", "here:2/"]')
    assert context.load_context().urls == ("http://here:1", "http://here:2")


def test_the_variable_and_the_option_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "checkout/.vimraft/context.toml", 'api = ["http://here:1"]')
    monkeypatch.setenv("VIMRAFT_CONTEXT", str(write(tmp_path / "v.toml", 'api = ["http://variable:1"]')))
    assert context.load_context().urls == ("http://variable:1",)
    option = write(tmp_path / "o.toml", 'api = ["http://option:1"]')
    assert context.load_context(option).urls == ("http://option:1",)
    assert context.load_context(option, ("http://api:1",)).urls == ("http://api:1",)


def test_a_named_file_that_is_missing_is_an_error_not_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "checkout/.vimraft/context.toml", 'api = ["http://here:1"]')
    monkeypatch.setenv("VIMRAFT_CONTEXT", str(tmp_path / "missing.toml"))
    with pytest.raises(BadFile, match="No such file"):
        context.load_context()


def test_the_token_lies_beside_the_context_file(tmp_path: Path) -> None:
    write(tmp_path / "checkout/.vimraft/api.token", "secret-of-the-cluster\n")
    write(tmp_path / "checkout/.vimraft/context.toml", 'api = ["http://a:1"]\ntoken_file = "api.token"')
    assert context.load_context().token == "secret-of-the-cluster"
    other = write(tmp_path / "t", "another")
    assert context.load_context(token_file=other).token == "another"


def test_without_any_file_the_places_looked_at_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoContext) as caught:
        context.load_context()
    assert tmp_path / "checkout/.vimraft/context.toml" in caught.value.looked_at


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("api = [", "is not TOML"),
        ("api = []", "names no manager"),
        ('api = ["http://a:1"]\ntokens = "x"', "unknown field `tokens`"),
        ('token_file = "x"', "missing required field `api`"),
        ('api = ["ftp://a:1"]', "'ftp://a:1'"),
        ('api = ["http://a:1"]\ntoken_file = "none"', "No such file"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(BadFile) as caught:
        context.load_context(write(tmp_path / "c.toml", text))
    assert problem in caught.value.problem


@pytest.mark.parametrize("content", ["", " \n", "two words", "two\nlines", "ключ"])
def test_a_token_is_one_plain_line(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadFile):
        context.read_token(write(tmp_path / "t", content))


@pytest.mark.parametrize("text", ["http://", "http://a b:1", "http://a:1/path", "nbd://a:1"])
def test_urls_of_managers_are_plain(text: str) -> None:
    with pytest.raises(BadArgument):
        context.normal_url(text)
