"""What can go wrong on the caller's side of the API: client, CLI and console.

May live here: exception types that carry facts, no prose for people (that is vimraft.api.advice's).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from vimraft.api.schema import ErrorReply


class CallerError(Exception):
    """Base of the faults that a caller of the API meets."""


class ApiError(CallerError):
    """A manager answered with an error, or no manager gave an answer (then `status` is 503 or 504)."""

    def __init__(self, reply: ErrorReply, status: int) -> None:
        super().__init__(reply.message)
        self.reply = reply
        self.status = status


class Unreachable(CallerError):
    """No manager could be asked: the request certainly had no effect."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{url}: {problem}" for url, problem in problems.items()))
        self.problems = dict(problems)


class NoAnswer(CallerError):
    """A request was sent and no answer came back: it may have had its effect."""

    def __init__(self, what: str, problems: Mapping[str, str], request_id: str) -> None:
        super().__init__(f"{what}: no answer")
        self.what = what
        self.problems = dict(problems)
        self.request_id = request_id


class BadReply(CallerError):
    """What answered does not speak this release's API."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url
        self.problem = problem


class NoContext(CallerError):
    """Nothing says where the cluster is."""

    def __init__(self, looked_at: Sequence[Path]) -> None:
        super().__init__("no context file")
        self.looked_at = tuple(looked_at)


class BadFile(CallerError):
    """A file that the operator named (context, token, configuration) cannot be used."""

    def __init__(self, kind: Literal["context", "token", "configuration"], path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.kind = kind
        self.path = path
        self.problem = problem


class BadSize(CallerError, ValueError):
    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"{text!r} {problem}")
        self.text = text
        self.problem = problem


class BadArgument(CallerError, ValueError):
    """`expected` completes 'expected …'."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(f"{name} {value!r}: expected {expected}")
        self.name = name
        self.value = value
        self.expected = expected


class NotConfirmed(CallerError):
    """Something that destroys data was asked for without --yes, and nobody is there to ask."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class CannotStart(CallerError):
    """A site manager refuses to start; its message names thing, cause and remedy itself."""

    def __init__(self, code: Literal["usage", "local"], message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class JobFailed(CallerError):
    def __init__(self, what: str, reply: ErrorReply | None) -> None:
        super().__init__(what)
        self.what = what
        self.reply = reply


class CopiesDiffer(CallerError):
    """They were compared, and are not equal in so many regions."""

    def __init__(self, volume: str, regions: int, why: str) -> None:
        super().__init__(volume)
        self.volume = volume
        self.regions = regions
        self.why = why


class NotAllCompared(CallerError):
    """No difference was found, but not every region of every copy in sync could be compared."""

    def __init__(self, volume: str, why: str) -> None:
        super().__init__(volume)
        self.volume = volume
        self.why = why


class NotYetEverywhere(CallerError):
    """A change was committed, but sites were still catching up when the wait ended."""

    def __init__(self, what: str, sites: Sequence[str], waited_s: float) -> None:
        super().__init__(what)
        self.what = what
        self.sites = tuple(sites)
        self.waited_s = waited_s


class NotInstalled(CallerError):
    """A local program or a part of this package is missing."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(what)
        self.what = what
        self.package = package


class ToolFailed(CallerError):
    def __init__(self, command: Sequence[str], exit_code: int, output: str) -> None:
        super().__init__(f"{command[0]} ended with {exit_code}")
        self.command = tuple(command)
        self.exit_code = exit_code
        self.output = output


class NoNbdModule(CallerError):
    """This kernel has no nbd driver (or it may not be loaded); the URI works without it."""

    def __init__(self, uri: str, detail: str) -> None:
        super().__init__("no nbd kernel module")
        self.uri = uri
        self.detail = detail


class NeedsRoot(CallerError):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class NoFreeDevice(CallerError):
    def __init__(self, devices: int) -> None:
        super().__init__("no free nbd device")
        self.devices = devices


class DeviceInUse(CallerError):
    """`users` are mount points, swap, or holders such as device mapper; may be empty when unknown."""

    def __init__(self, device: str, users: Sequence[str], doing: str) -> None:
        super().__init__(f"{device} is in use")
        self.device = device
        self.users = tuple(users)
        self.doing = doing


class NotAttached(CallerError):
    def __init__(self, name: str, attached: Sequence[str]) -> None:
        super().__init__(name)
        self.name = name
        self.attached = tuple(attached)


class FlushFailed(CallerError):
    """The device could not write everything back before it was to be detached."""

    def __init__(self, device: str, problem: str) -> None:
        super().__init__(f"{device}: {problem}")
        self.device = device
        self.problem = problem


class DeviceStuck(CallerError):
    """nbd-client returned, but the kernel does not show what it should."""

    def __init__(self, device: str, expected: str, waited_s: float) -> None:
        super().__init__(device)
        self.device = device
        self.expected = expected
        self.waited_s = waited_s


class MetaError(CallerError):
    """Base of what goes wrong around backups and new generations."""


class FileExists(MetaError):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


class BackupBad(MetaError):
    """A backup cannot be used; `problem` names the file, the cause and the remedy."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class NotTyped(MetaError):
    """Something that loses changes was not confirmed by typing; `option` stands for it in scripts."""

    def __init__(self, what: str, option: str) -> None:
        super().__init__(what)
        self.what = what
        self.option = option
