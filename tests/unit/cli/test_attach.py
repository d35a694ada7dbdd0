"""attach and detach against a small tree in place of /sys, /dev and /proc, and a script as nbd-client."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_case import Result, invoke
from tests.fake_site import TOKEN, FakeService, serving
from vimraft.api.caller_errors import DeviceInUse
from vimraft.cli.nbd_device import Machine, connect_command, device_name

NBD_CLIENT = """#!/bin/sh
echo "$@" >> {root}/calls
if [ -e {root}/fail ]; then echo "Error: Socket failed: Connection refused" >&2; exit 1; fi
if [ "$1" = -d ]; then rm -f {root}/sys/block/$(basename $2)/pid; exit 0; fi
echo $$ > {root}/sys/block/$(basename $3)/pid
"""
MODPROBE = """#!/bin/sh
[ -e {root}/no-module ] && {{ echo "modprobe: FATAL: Module nbd not found" >&2; exit 1; }}
mkdir -p {root}/sys/module/nbd
"""


class Host:
    """A tree that looks like a machine with two nbd devices."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/module/nbd").mkdir(parents=True)
        (root / "dev").mkdir()
        (root / "proc/self").mkdir(parents=True)
        (root / "bin").mkdir()
        for number in range(2):
            disk = root / f"sys/block/nbd{number}"
            disk.mkdir(parents=True)
            (disk / "dev").write_text(f"43:{number * 16}\n")
            (root / f"dev/nbd{number}").write_bytes(b"")
        self.mounts("")
        for name, text in (("nbd-client", NBD_CLIENT), ("modprobe", MODPROBE)):
            tool = root / "bin" / name
            tool.write_text(text.format(root=root))
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    def mounts(self, line: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(line)

    def machine(self, *, privileged: bool = True) -> Machine:
        return Machine(self.root, path=f"{self.root}/bin:/usr/bin:/bin", privileged=privileged)

    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serving(FakeService()) as url:
        yield url


@pytest.fixture
def vimraft(served: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    monkeypatch.setattr("vimraft.cli.attach.make_machine", host.machine)

    def call(*arguments: str) -> Result:
        return invoke("--api", served, "--token-file", str(token), *arguments)

    return call


def test_attach_takes_the_first_free_device_and_detach_finds_it_by_volume(vimraft, host: Host) -> None:
    (host.root / "sys/block/nbd0/pid").write_text("77\n")
    result = vimraft("attach", "db-main", "-o", "json")
    device = str(host.root / "dev/nbd1")
    assert result.json() == {
        "device": device, "volume": "db-main", "site": "tokyo", "uri": "nbd://127.0.0.1:10809/db-main",
    }  # fmt: skip
    assert host.calls() == [f"127.0.0.1 10809 {device} -N db-main -b 512"]
    assert vimraft("detach", "db-main").out == f"{device} is detached\n"
    assert host.calls()[-1] == f"-d {device}"
    again = vimraft("detach", "db-main")
    assert again.code == 4
    assert "nothing is attached here" in again.err


def test_print_shows_the_command_and_runs_nothing(vimraft, host: Host) -> None:
    result = vimraft(
        "attach", "db-main", "--print", "--connections", "4", "--read-only", "--device", "/dev/nbd7"
    )
    assert result.out == (
        "nbd-client 127.0.0.1 10809 /dev/nbd7 -N db-main -b 512 -C 4 -timeout 86400 -readonly\n"
    )
    assert host.calls() == []


def test_the_kernel_is_told_to_hold_and_never_to_reconnect_by_itself() -> None:
    for connections in (1, 4):
        command = connect_command(
            host="h", port=1, export="v", device="/dev/nbd0", connections=connections, block_bytes=512,
            read_only=False,
        )  # fmt: skip
        assert not {"-persist", "-p", "-nonetlink", "-L"} & set(command)
        assert ("-timeout" in command) == (connections > 1)


def test_without_the_module_the_uri_is_offered(vimraft, host: Host) -> None:
    (host.root / "sys/module/nbd").rmdir()
    (host.root / "no-module").touch()
    result = vimraft("attach", "db-main")
    assert result.code == 7
    assert "Module nbd not found" in result.err
    assert "nbdcopy nbd://127.0.0.1:10809/db-main FILE" in result.err
    assert host.calls() == []


def test_the_module_is_loaded_when_it_can_be(vimraft, host: Host) -> None:
    (host.root / "sys/module/nbd").rmdir()
    assert vimraft("attach", "db-main").code == 0
    assert host.machine().has_module()


def test_nbd_client_that_fails_is_seven_and_remembers_nothing(vimraft, host: Host) -> None:
    (host.root / "fail").touch()
    result = vimraft("attach", "db-main")
    assert result.code == 7
    assert "Connection refused" in result.err
    assert host.machine().attachments() == []


def test_nbd_client_that_is_missing_is_named(vimraft, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Machine(host.root, path=f"{host.root}/empty", privileged=True)
    monkeypatch.setattr("vimraft.cli.attach.make_machine", lambda: alone)
    result = vimraft("attach", "db-main")
    assert result.code == 7
    assert "nbd-client is not installed here" in result.err


def test_all_devices_in_use(vimraft, host: Host) -> None:
    for number in range(2):
        (host.root / f"sys/block/nbd{number}/pid").write_text("77\n")
    result = vimraft("attach", "db-main")
    assert result.code == 7
    assert "all 2 nbd devices are in use" in result.err
    assert "nbds_max" in result.err


def test_a_device_that_is_attached_is_not_taken_over(vimraft, host: Host) -> None:
    assert vimraft("attach", "scratch", "--device", "/dev/nbd0").code == 0
    result = vimraft("attach", "db-main", "--device", "/dev/nbd0")
    assert result.code == 7
    assert "in use by volume scratch: not attached" in result.err


def test_root_is_asked_for(vimraft, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimraft.cli.attach.make_machine", lambda: host.machine(privileged=False))
    result = vimraft("attach", "db-main")
    assert result.code == 7
    assert "sudo" in result.err


USES = {
    "by number": "30 1 43:0 / /mnt/a\\040b rw - ext4 /dev/disk/by-label/x rw\n",
    "by partition": "30 1 43:1 / /mnt/a\\040b rw shared:1 - ext4 /dev/nbd0p1 rw\n",
    "by source": "30 1 0:99 / /mnt/a\\040b rw - btrfs /dev/nbd0 rw\n",
}


@pytest.mark.parametrize("line", USES.values(), ids=USES.keys())
def test_detach_names_the_mount_point_and_refuses(vimraft, host: Host, line: str) -> None:
    assert vimraft("attach", "db-main").code == 0
    partition = host.root / "sys/block/nbd0/nbd0p1"
    partition.mkdir()
    (partition / "dev").write_text("43:1\n")
    host.mounts(line)
    for arguments in (("detach", "db-main"), ("detach", "/dev/nbd0", "--force")):
        result = vimraft(*arguments)
        assert result.code == 7
        assert "in use by /mnt/a b: not detached" in result.err
        assert "umount '/mnt/a b'" in result.err
    assert len(host.calls()) == 1
    host.mounts("")
    assert vimraft("detach", "db-main").code == 0


def test_swap_and_holders_count_as_use(host: Host) -> None:
    holders = host.root / "sys/block/nbd0/holders"
    holders.mkdir()
    (holders / "dm-3").touch()
    (host.root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/nbd0 partition 1 0 -2\n")
    assert host.machine().users("nbd0") == ["swap", "device dm-3"]
    (host.root / "sys/block/nbd0/pid").write_text("77\n")
    with pytest.raises(DeviceInUse):
        host.machine().detach("nbd0")


def test_a_device_attached_anew_by_others_is_no_longer_ours(vimraft, host: Host) -> None:
    assert vimraft("attach", "db-main").code == 0
    (host.root / "sys/block/nbd0/pid").write_text("4711\n")
    assert host.machine().attachments() == []
    assert vimraft("detach", "db-main").code == 4
    assert vimraft("detach", "nbd0").code == 0


def test_a_torn_record_is_no_attachment(vimraft, host: Host) -> None:
    assert vimraft("attach", "db-main").code == 0
    record = host.root / "run/vimraft/attached/nbd0.json"
    assert json.loads(record.read_text())["volume"] == "db-main"
    record.write_text('{"device": "nb')
    assert host.machine().attachments() == []


def test_a_volume_attached_twice_needs_the_device_to_be_named(vimraft, host: Host) -> None:
    assert vimraft("attach", "db-main").code == 0
    assert vimraft("attach", "db-main").code == 0
    result = vimraft("detach", "db-main")
    assert result.code == 7
    assert "/dev/nbd0, /dev/nbd1" in result.err


def test_a_device_that_is_gone_is_given_up_only_by_force(vimraft, host: Host) -> None:
    assert vimraft("attach", "db-main").code == 0
    (host.root / "dev/nbd0").unlink()
    result = vimraft("detach", "db-main")
    assert result.code == 7
    assert "could not write everything back" in result.err
    assert vimraft("detach", "db-main", "--force").code == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/dev/nbd0", "nbd0"),
        ("nbd12", "nbd12"),
        ("db", None),
        ("/dev/sda", None),
        ("nbd", None),
        ("nbd0p1", None),
    ],
)
def test_device_names(text: str, name: str | None) -> None:
    assert device_name(text) == name
