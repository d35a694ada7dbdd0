"""Runs a `vimraft` command line in this process; its exit code, stdout and stderr."""

import contextlib
import io
from typing import Any, NamedTuple

import msgspec

from vimraft.cli.main import run


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def invoke(*arguments: str) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    return Result(code, out.getvalue(), err.getvalue())
