"""Every cause of failure has words that name the thing and the remedy, a status and an exit code."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from vimraft.api import caller_errors as caller
from vimraft.api import errors
from vimraft.api.advice import EXIT_CODES, STATUS, from_exception, from_reason
from vimraft.api.errors import DeviceProblem, ManagerUnreachable, PassedOn, Refused
from vimraft.api.schema import ErrorReply
from vimraft.core.codec import CodecError
from vimraft.core.reasons import (
    CannotRead,
    Conflict,
    CopyState,
    Exists,
    InUse,
    Invalid,
    LastCopy,
    Malformed,
    NoSpace,
    NoSpaceForCopy,
    NotFormed,
    NotFound,
    OtherBoot,
    Outdated,
    Reason,
    Renewed,
    SiteFree,
    SoleHolder,
    Unsupported,
)
from vimraft.data.backends.base import BackendError
from vimraft.metadata.port import LogError, Unavailable, UnknownOutcome

GIB = 1 << 30
TIB = 1 << 40

NO_SPACE = NoSpace(
    volume_class="ssd",
    needed_bytes=2 * TIB,
    largest_bytes=2 * TIB - 812 * GIB,
    sites=(SiteFree("tokyo", 800 * GIB), SiteFree("osaka", 436 * GIB)),
    known_classes=("ssd", "fast-hdd"),
)
REASONS: dict[type, tuple[Reason, int, str, str]] = {
    NotFound: (NotFound("site", "kyoto", ("osaka", "tokyo")), 4, "no site 'kyoto'", "osaka, tokyo"),
    Exists: (Exists("virtual volume", "db"), 3, "virtual volume 'db' exists already", "vimraft vol show db"),
    Invalid: (
        Invalid("size_bytes", "1000", "is not a multiple of 512 bytes"),
        2,
        "size bytes '1000' is not",
        "",
    ),
    InUse: (InUse("real volume", "a1:0", ("db", "mail")), 3, "'a1:0' is in use by db, mail", "real exclude"),
    NoSpace: (
        NO_SPACE,
        3,
        "no room for 2 TiB of class ssd at sites tokyo, osaka: 812 GiB short",
        "--size 1236G",
    ),
    Unsupported: (Unsupported("2 copies"), 3, "cannot do this: 2 copies", ""),
    NotFormed: (NotFormed(), 5, "not been formed", "majority"),
    Outdated: (Outdated("manager", "tokyo"), 3, "newer than this caller knows about manager 'tokyo'", ""),
    Malformed: (Malformed("request: format version 9"), 3, "format version 9", "same release"),
    CannotRead: (CannotRead(2, ("osaka",)), 3, "level 2 cannot be read by osaka", "start this release"),
    Conflict: (Conflict("db", 7, "m-osaka"), 3, "epoch 7 and owner m-osaka now", "vimraft vol show db"),
    SoleHolder: (SoleHolder("db", "m-osaka"), 3, "wholly at the sites of its owner", "site force-lost"),
    Renewed: (Renewed("m-osaka", "life", 9), 3, "'m-osaka' is alive", "vol move-owner"),
    LastCopy: (LastCopy(("db", "mail")), 3, "no copy in sync would be left of db, mail", "copy add"),
    CopyState: (CopyState("db", "B", "stale"), 3, "copy B of virtual volume 'db' is stale", "vol show db"),
    OtherBoot: (OtherBoot("m-osaka", "b2"), 3, "'m-osaka' are in boot b2", "resynced"),
    NoSpaceForCopy: (NoSpaceForCopy(2, 3, NO_SPACE), 3, "no room for copy 2 of 3: 2 TiB", "--same-site"),
}


@pytest.mark.parametrize("kind", get_args(Reason), ids=lambda kind: kind.__name__)
def test_every_reason_has_words_a_status_and_an_exit_code(kind: type) -> None:
    reason, exit_code, message, remedy = REASONS[kind]
    advice = from_reason(reason)
    assert message in advice.reply.message
    assert remedy in advice.reply.remedy
    assert advice.reply.remedy
    assert advice.exit_code == exit_code
    assert advice.status == STATUS[advice.reply.code]
    assert advice.reply.reason["type"] == kind.__name__
    assert msgspec.convert(advice.reply.reason, Reason) == reason
    assert from_exception(Refused(reason)) == advice


def test_no_space_says_what_would_fit_and_where() -> None:
    assert from_reason(NO_SPACE).reply.message == (
        "no room for 2 TiB of class ssd at sites tokyo, osaka: 812 GiB short; "
        "largest volume of class ssd that fits: 1.2 TiB at sites tokyo, osaka"
    )


def test_no_space_of_an_unknown_class_names_the_classes_there_are() -> None:
    reason = NoSpace("tape", GIB, 0, (SiteFree("tokyo", 0),), ("ssd",))
    reply = from_reason(reason).reply
    assert "no active real volume has this class; classes there: ssd" in reply.message


def test_no_space_at_all_does_not_offer_a_size_of_nothing() -> None:
    reply = from_reason(NoSpace("ssd", GIB, 0, (SiteFree("tokyo", 0),), ("ssd",))).reply
    assert "nothing of class ssd is free at site tokyo" in reply.message
    assert "--size" not in reply.remedy


def test_long_lists_of_names_are_cut_with_their_number() -> None:
    names = tuple(f"v{n}" for n in range(20))
    assert "and 12 more" in from_reason(NotFound("virtual volume", "x", names)).reply.remedy


ERRORS: list[tuple[Exception, str, str]] = [
    (Unavailable("no leader"), "unavailable", "no leader"),
    (UnknownOutcome("after 5 s"), "unknown_outcome", "may or may not have been made"),
    (BackendError("missing", "t1:0: no such file"), "local", "t1:0: no such file"),
    (BackendError("label", "t1:0: foreign label"), "local", "foreign label"),
    (BackendError("io", "t1:0: EIO"), "local", "EIO"),
    (BackendError("flush", "t1:0: fsync failed"), "local", "fsync failed"),
    (ManagerUnreachable("osaka", "connection refused"), "unavailable", "osaka"),
    (errors.NotInLog("kyoto"), "conflict", "'kyoto' is not in the log yet"),
    (errors.NotCaughtUp("kyoto", 1200), "conflict", "1200 log entries behind"),
    (
        errors.NoMajorityLeft("kyoto", ("osaka", "tokyo"), ("osaka",)),
        "conflict",
        "voters left would be osaka, tokyo, and of these osaka cannot be reached",
    ),
    (errors.LastVoter("kyoto"), "conflict", "last voter"),
    (errors.StillAlive("kyoto", "heard 0.3 s ago"), "conflict", "'kyoto' is alive (heard 0.3 s ago)"),
    (errors.IdentityChanged("kyoto"), "conflict", "another data directory"),
    (errors.OnlyItself("kyoto"), "unavailable", "cannot take itself out"),
    (DeviceProblem("t1:0", "holds a file system"), "local", "t1:0 cannot be used: holds a file system"),
    (CodecError("torn"), "usage", "torn"),
    (TimeoutError(), "unknown_outcome", "did not come in time"),
    (FileNotFoundError(2, "No such file or directory", "/x"), "local", "/x: No such file"),
    (ZeroDivisionError("x"), "internal", "ZeroDivisionError"),
    (PassedOn(ErrorReply("not_found", "no volume x"), 404), "not_found", "no volume x"),
    (caller.ApiError(ErrorReply("rejected", "full"), 409), "rejected", "full"),
    (caller.Unreachable({"http://a": "connection refused"}), "unavailable", "http://a: connection refused"),
    (caller.NoAnswer("POST /v1/volumes", {"http://a": "late"}, "id"), "unknown_outcome", "POST /v1/volumes"),
    (caller.BadReply("http://a", "not JSON"), "internal", "http://a"),
    (caller.NoContext([Path("/etc/vimraft/context.toml")]), "usage", "/etc/vimraft/context.toml"),
    (caller.BadFile("token", Path("/t"), "is empty"), "usage", "token file /t: is empty"),
    (caller.BadSize("5X", "has an unknown unit 'X'"), "usage", "size '5X' has an unknown unit"),
    (caller.BadArgument("--site", ",", "names"), "usage", "--site ','"),
    (caller.CannotStart("local", "data_dir is in use"), "local", "data_dir is in use"),
    (caller.NotConfirmed("deleting volume x"), "usage", "deleting volume x needs"),
    (caller.JobFailed("preparing t1:0", ErrorReply("local", "holds data")), "local", "holds data"),
    (caller.JobFailed("preparing t1:0", None), "local", "preparing t1:0 failed"),
    (caller.CopiesDiffer("db", 3, "copy B could not be written"), "conflict", "differ in 3 regions"),
    (caller.NotAllCompared("db", "only one copy is in sync"), "unavailable", "could not be compared"),
    (caller.NotYetEverywhere("volume x", ["osaka"], 60.0), "unavailable", "not installed yet at osaka"),
    (caller.NotInstalled("nbd-client", "nbd-client"), "local", "nbd-client is not installed"),
    (
        caller.ToolFailed(["nbd-client", "h"], 1, "refused\n"),
        "local",
        "nbd-client h ended with exit code 1: refused",
    ),
    (
        caller.NoNbdModule("nbd://h:1/x", "modprobe: not found"),
        "local",
        "no nbd driver (modprobe: not found)",
    ),
    (caller.MetaError("x"), "internal", "unexpected MetaError"),
    (caller.FileExists(Path("b")), "usage", "b exists already"),
    (caller.BackupBad("b: damaged"), "local", "b: damaged"),
    (caller.NotTyped("restoring x", "--yes-i-accept-data-loss"), "usage", "restoring x was not confirmed"),
    (errors.IndexOutOfReach(5, 7, 9), "not_found", "index 5 are not kept any more"),
    (errors.IndexOutOfReach(12, 7, 9), "not_found", "no index 12 yet"),
    (caller.NeedsRoot("attaching x"), "local", "attaching x needs root"),
    (caller.NoFreeDevice(16), "local", "all 16 nbd devices"),
    (caller.DeviceInUse("/dev/nbd0", ["/mnt/a b"], "detached"), "local", "in use by /mnt/a b: not detached"),
    (caller.NotAttached("x", []), "not_found", "x is not attached"),
    (caller.FlushFailed("/dev/nbd0", "Input/output error"), "local", "could not write everything back"),
    (caller.DeviceStuck("/dev/nbd0", "connected", 10.0), "local", "/dev/nbd0 is not connected"),
]


@pytest.mark.parametrize(("error", "code", "words"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_exception_becomes_a_code_and_words(error: Exception, code: str, words: str) -> None:
    advice = from_exception(error)
    assert advice.reply.code == code
    assert words in advice.reply.message
    assert advice.exit_code == EXIT_CODES[code][0]
    assert 400 <= advice.status < 600


def subclasses(kind: type) -> set[type]:
    return {kind for direct in kind.__subclasses__() for kind in (direct, *subclasses(direct))}


@pytest.mark.parametrize("base", [caller.CallerError, LogError, errors.MembershipFault])
def test_no_typed_error_is_left_without_words(base: type) -> None:
    covered = {type(error) for error, _, _ in ERRORS}
    # Why a log cannot be opened is said when a manager starts, in its own words, and never by the API.
    ours = {
        kind
        for kind in subclasses(base)
        if kind.__module__.startswith("vimraft.") and kind.__module__ != "vimraft.metadata.pysyncobj.errors"
    }
    assert ours - covered == set()
    assert ours


def test_a_log_error_without_words_of_its_own_counts_as_unknown_outcome() -> None:
    class Strange(LogError):
        pass

    assert from_exception(Strange("half done")).reply.code == "unknown_outcome"


def test_without_the_kernel_module_the_uri_is_offered() -> None:
    remedy = from_exception(caller.NoNbdModule("nbd://h:1/x", "")).reply.remedy
    for tool in ("qemu-img info nbd://h:1/x", "nbdcopy nbd://h:1/x", "-drive file=nbd://h:1/x"):
        assert tool in remedy


def test_exit_codes_are_distinct_and_documented() -> None:
    assert sorted({number for number, _ in EXIT_CODES.values()}) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert set(STATUS) == set(EXIT_CODES) - {"done"}
