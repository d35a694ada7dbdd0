"""What every command prints with: consoles, output formats, errors.

May live here: `Options` (the global options of one invocation) and writing to stdout and stderr. Tables are
never cut off: a terminal folds them, a pipe gets every row on one line. NO_COLOR and non-terminals get no
colours (rich looks after both).
"""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import yaml
from rich.console import Console, RenderableType
from rich.text import Text

from vimraft.api.advice import Advice
from vimraft.api.client import Client
from vimraft.api.context import Context, load_context

PIPE_COLUMNS = 4_000
"""Width of a 'terminal' that is none: no row of ours is wider, so nothing is folded."""


class ReaderGone(Exception):
    """The reader of our output has what it wanted (`vimraft events | head`)."""


class QuietPipeConsole(Console):
    def on_broken_pipe(self) -> None:
        """Instead of rich's own exit."""
        _stdout_to_nowhere()
        raise ReaderGone


def _stdout_to_nowhere() -> None:
    """Keeps the interpreter's last flush from complaining."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def make_console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return QuietPipeConsole(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


class Options:
    """Global options, and what one invocation opens lazily."""

    def __init__(self) -> None:
        self.context_file: Path | None = None
        self.api: tuple[str, ...] = ()
        self.token_file: Path | None = None
        self.timeout_s: float | None = None
        self.format = Format.TABLE
        self.out = make_console()
        self.err = make_console(stderr=True)
        self._client: Client | None = None

    def context(self) -> Context:
        return load_context(self.context_file, self.api, self.token_file)

    def client(self) -> Client:
        if self._client is None:
            self._client = self.open_client()
        return self._client

    def open_client(self, timeout_s: float | None = None) -> Client:
        """A new one, for another thread or with another time limit."""
        context = self.context()
        limit_s = timeout_s or self.timeout_s
        if limit_s is None:
            return Client(context.urls, context.token)
        return Client(context.urls, context.token, limit_s)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    # -- writing -----------------------------------------------------------------------------------

    def data(self, value: Any, render: Callable[[], RenderableType]) -> None:
        """A reply in the format that was asked for."""
        if self.format is Format.TABLE:
            self.out.print(render())
        else:
            self.raw(encode(value, self.format))

    def raw(self, text: str) -> None:
        """Text as it is: for scripts."""
        try:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            _stdout_to_nowhere()
            raise ReaderGone from None

    def raw_bytes(self, data: bytes) -> None:
        """For pipes: standard output is not text."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _stdout_to_nowhere()
            raise ReaderGone from None

    def say(self, message: RenderableType) -> None:
        """For people only: silent when the output is for a program."""
        if self.format is Format.TABLE:
            self.out.print(message)

    def note(self, message: str) -> None:
        """On stderr, so that it never mixes with data."""
        self.err.print(Text(message, style="dim"))

    def fail(self, advice: Advice) -> None:
        if self.format is Format.JSON:
            sys.stderr.write(encode(advice.reply, Format.JSON) + "\n")
            return
        if self.format is Format.YAML:
            sys.stderr.write(encode(advice.reply, Format.YAML))
            return
        self.err.print(Text.assemble(("error: ", "bold red"), advice.reply.message))
        if advice.reply.remedy:
            self.err.print(Text.assemble(("help: ", "bold cyan"), advice.reply.remedy))


def encode(value: Any, form: Format) -> str:
    if form is Format.YAML:
        plain = msgspec.to_builtins(value, str_keys=True)
        return str(yaml.safe_dump(_lists(plain), sort_keys=False, allow_unicode=True))
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _lists(value: Any) -> Any:
    """YAML's safe dumper knows lists, not tuples."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
