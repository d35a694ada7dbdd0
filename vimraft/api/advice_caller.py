"""Faults on the caller's side in words: reaching a manager, local files, local devices.

May live here: one branch or function per class of vimraft.api.caller_errors; vimraft.api.advice calls in.
"""

import shlex
from collections.abc import Mapping

from vimraft.api import caller_errors as caller
from vimraft.api.advice_codes import STATUS, Advice, exit_code_of, listed, make_advice, unknown_outcome
from vimraft.api.advice_copies import from_comparing
from vimraft.api.advice_meta import from_meta_error
from vimraft.api.units import format_age


def from_usage(problem: str, remedy: str) -> Advice:
    return make_advice("usage", problem, remedy)


def from_status(status: int, url: str) -> Advice:
    """An HTTP error without an ErrorReply: a proxy, or something that is no manager."""
    code = next((code for code, known in STATUS.items() if known == status), "internal")
    return make_advice(
        code,
        f"{url} answered HTTP {status} without saying why",
        "check that it is the API of a vimraft manager",
    )


def from_caller_error(error: caller.CallerError) -> Advice:
    """Faults on the caller's side: reaching a manager, local files, local devices."""
    match error:
        case caller.ApiError():
            return Advice(error.status, exit_code_of(error.reply.code), error.reply)
        case caller.JobFailed():
            return _job_failed(error)
        case caller.CopiesDiffer() | caller.NotAllCompared():
            return from_comparing(error)
        case caller.MetaError():
            return from_meta_error(error)
        case caller.Unreachable():
            return _unreachable(error)
        case caller.NoAnswer():
            return unknown_outcome(f"no manager answered about '{error.what}' ({_problems(error.problems)})")
        case caller.BadReply():
            return make_advice(
                "internal",
                f"{error.url} gave an answer that cannot be read: {error.problem}",
                "check that it is the API of a vimraft manager, of the same release as this command",
            )
        case caller.NotYetEverywhere():
            return make_advice(
                "unavailable",
                f"{error.what} is committed, but not installed yet at {listed(error.sites)} after "
                f"{format_age(error.waited_s)}",
                "nothing to undo: these sites catch up when they can; see: vimraft status",
            )
        case _:
            return _from_operator_error(error)


def _problems(problems: Mapping[str, str]) -> str:
    return "; ".join(f"{url}: {problem}" for url, problem in problems.items())


def _job_failed(error: caller.JobFailed) -> Advice:
    if error.reply is None:
        return make_advice("local", f"{error.what} failed", "see the manager's log")
    reply = error.reply
    return Advice(STATUS.get(reply.code, 500), exit_code_of(reply.code), reply)


def _unreachable(error: caller.Unreachable) -> Advice:
    return make_advice(
        "unavailable",
        f"no site manager can be reached ({_problems(error.problems)})",
        "start one with: vimraft site run --config FILE, or name one that runs with: --api URL",
    )


def _from_operator_error(error: caller.CallerError) -> Advice:
    match error:
        case caller.NoContext():
            return make_advice(
                "usage",
                f"no cluster is known here: no context file at {', '.join(map(str, error.looked_at))}",
                "name a manager with --api http://HOST:PORT --token-file FILE, or write such a file: "
                'api = ["http://HOST:PORT"] and token_file = "FILE"',
            )
        case caller.BadFile():
            remedies = {
                "context": 'it holds two keys: api = ["http://HOST:PORT", …] and token_file = "FILE"',
                "token": "it holds the API token on one line; managers keep theirs in data_dir/api.token",
                "configuration": "deploy/site.example.toml explains every key",
            }
            return make_advice(
                "usage", f"{error.kind} file {error.path}: {error.problem}", remedies[error.kind]
            )
        case caller.BadSize():
            return make_advice(
                "usage",
                f"size {error.text!r} {error.problem}",
                "write bytes or K, M, G, T, P: 64M, 1.5G, 1TiB",
            )
        case caller.BadArgument():
            return make_advice(
                "usage", f"{error.name} {error.value!r} is wrong", f"expected {error.expected}"
            )
        case caller.CannotStart():
            remedy = "deploy/site.example.toml explains every key" if error.code == "usage" else ""
            return make_advice(error.code, error.message, remedy)
        case caller.NotConfirmed():
            return make_advice("usage", f"{error.what} needs a confirmation", "add --yes if you are sure")
        case _:
            return _from_local_error(error)


def _from_local_error(error: caller.CallerError) -> Advice:
    match error:
        case caller.NotInstalled():
            return make_advice("local", f"{error.what} is not installed here", f"install {error.package}")
        case caller.NeedsRoot():
            return make_advice(
                "local", f"{error.what} needs root", "run it with sudo, or use --print to see the command"
            )
        case caller.ToolFailed():
            output = error.output.strip()
            return make_advice(
                "local",
                f"{' '.join(error.command)} ended with exit code {error.exit_code}"
                + (f": {output}" if output else ""),
                "check that the site's NBD address can be reached from this host, and the kernel log (dmesg)",
            )
        case caller.NoNbdModule():
            return _no_nbd_module(error)
        case caller.NoFreeDevice():
            return make_advice(
                "local",
                f"all {error.devices} nbd devices are in use",
                "detach one (vimraft detach), or load the module with more: modprobe nbd nbds_max=64",
            )
        case caller.DeviceInUse():
            return _device_in_use(error)
        case caller.NotAttached():
            attached = (
                f"attached here: {listed(error.attached)}" if error.attached else "nothing is attached here"
            )
            return make_advice("not_found", f"{error.name} is not attached to this host", attached)
        case caller.FlushFailed():
            return make_advice(
                "local",
                f"{error.device} could not write everything back: {error.problem}",
                "it is still attached; find the cause (vimraft status, dmesg) and try again, or give up what "
                "was not written with: vimraft detach --force",
            )
        case caller.DeviceStuck():
            return make_advice(
                "local",
                f"{error.device} is not {error.expected} {format_age(error.waited_s)} after nbd-client ended",
                "see the kernel log (dmesg)",
            )
        case _:
            return make_advice("internal", f"{type(error).__name__}: {error}", "please report this")


def _device_in_use(error: caller.DeviceInUse) -> Advice:
    users = f" by {listed(error.users)}" if error.users else ""
    mounts = [user for user in error.users if user.startswith("/")]
    remedy = f"unmount it first: umount {shlex.quote(mounts[0])}" if mounts else "stop what uses it first"
    return make_advice("local", f"{error.device} is in use{users}: not {error.doing}", remedy)


def _no_nbd_module(error: caller.NoNbdModule) -> Advice:
    detail = f" ({error.detail})" if error.detail else ""
    return make_advice(
        "local",
        f"this kernel has no nbd driver{detail}, so there can be no block device for it here",
        f"the volume can be used without one, under {error.uri} :\n"
        f"  qemu-img info {error.uri}\n"
        f"  nbdcopy {error.uri} FILE\n"
        f"  qemu-system-x86_64 … -drive file={error.uri},format=raw,if=virtio,cache=none",
    )
