"""What a guest boots: Debian's cloud kernel and an initramfs that we make.

May live here: fetching the kernel package (no installation on the host: its maintainer scripts never
run), and packing busybox, the modules and the programs under test into an initramfs. `linux_guest`
boots the result. As a script: `guest_image.py` fetches the kernel ahead of the tests and prints where.
Keeps: the cache holds whole kernels only (filled elsewhere, then renamed into place).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache" / "linux-guest"
KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
FETCH_TIMEOUT_S = 300

MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "failover",
    "net_failover",
    "virtio_net",
    "nbd",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "libcrc32c",
    "ext4",
)
"""In the order in which they load. Those that this kernel has built in (ext4's, mostly) are left out."""

PROGRAMS = (
    "/usr/sbin/nbd-client",
    "/usr/sbin/mke2fs",
    "/usr/sbin/e2fsck",
    "/usr/sbin/resize2fs",
    "/usr/sbin/dumpe2fs",
)
BUSYBOX = "/usr/bin/busybox"
BUSYBOX_FALLBACK = "/bin/busybox"

INIT = r"""#!/bin/sh
# First process of the guest: loads the drivers, brings up the network, then runs what the host sends.
# Each request is a line "NUMBER LIMIT_SECONDS BASE64"; each answer a line "NUMBER STATUS BYTES" and
# that many bytes of output. When the host goes away the guest powers itself off.
export PATH=/sbin:/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
while read -r module options; do
    # shellcheck disable=SC2086
    insmod "/modules/$module.ko" $options || echo "init: cannot load $module"
done </modules/order
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
exec 3<>"$(echo /dev/vport*p1)"
echo ready >&3
while read -r number limit_s encoded <&3; do
    echo "$encoded" | base64 -d >/tmp/.command
    timeout -s KILL "$limit_s" sh /tmp/.command >/tmp/.output 2>&1 3>&- </dev/null
    status=$?
    echo "$number $status $(wc -c </tmp/.output)" >&3
    cat /tmp/.output >&3
done
poweroff -f
"""


class GuestError(Exception):
    """The guest could not be made, booted or talked to: names what, the cause and the remedy."""


class Kernel(NamedTuple):
    vmlinuz: Path
    modules: Path
    """Directory of the .ko files named in MODULES, as far as they are not built in."""


def ensure_kernel(cache: Path = CACHE) -> Kernel:
    """The newest kernel in the cache; fetched with apt when there is none. Raises GuestError."""
    for directory in sorted(cache.glob("linux-image-*"), reverse=True):
        return Kernel(directory / "vmlinuz", directory / "modules")
    cache.mkdir(parents=True, exist_ok=True)
    package = _kernel_package()
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as work:
        filled = _fetch(package, Path(work))
        try:
            filled.rename(cache / package)
        except OSError:
            if not (cache / package).is_dir():  # else: another run was faster, its copy is as good
                raise
    return Kernel(cache / package / "vmlinuz", cache / package / "modules")


def _kernel_package() -> str:
    depends = _output("apt-cache", "depends", "--important", KERNEL_METAPACKAGE)
    for line in depends.splitlines():
        word = line.split()[-1] if line.split() else ""
        if word.startswith("linux-image-") and word != KERNEL_METAPACKAGE:
            return word
    raise GuestError(f"apt knows no {KERNEL_METAPACKAGE}. Run `apt-get update` on a Debian 12 host")


def _fetch(package: str, work: Path) -> Path:
    """Downloads and unpacks `package` below `work`; returns a directory with vmlinuz and modules/."""
    _output("apt-get", "download", "-o", "APT::Sandbox::User=root", package, cwd=work)
    deb = next(work.glob("*.deb"))
    tree = work / "tree"
    wanted = ["./boot/vmlinuz-*", *(f"*/{module}.ko" for module in MODULES)]
    tree.mkdir()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as archive:
        # tar exits 2 for patterns that match nothing: modules that this kernel has built in.
        subprocess.run(
            ["tar", "-x", "--wildcards", "-C", tree, *wanted],
            stdin=archive.stdout,
            stderr=subprocess.DEVNULL,
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    filled = work / package
    (filled / "modules").mkdir(parents=True)
    for source in tree.rglob("*.ko"):
        source.rename(filled / "modules" / source.name)
    for source in tree.glob("boot/vmlinuz-*"):
        source.rename(filled / "vmlinuz")
    for needed in ("vmlinuz", "modules/nbd.ko", "modules/virtio_net.ko", "modules/virtio_console.ko"):
        if not (filled / needed).exists():
            raise GuestError(f"{deb.name} holds no {needed}: not a kernel that this test can boot")
    return filled


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise GuestError(f"{command[0]} is not there; the guest test needs a Debian 12 host") from None
    except subprocess.TimeoutExpired:
        raise GuestError(f"{' '.join(command)}: nothing after {FETCH_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise GuestError(f"{' '.join(command)}: {done.stderr.strip()}. Try `apt-get update`, then again")
    return done.stdout


def build_initramfs(kernel: Kernel, target: Path) -> Path:
    """Packs `target` (newc, not compressed: unpacking is what emulated CPUs are slow at)."""
    with tempfile.TemporaryDirectory(prefix="initramfs-", dir=target.parent) as work:
        root = Path(work)
        for name in ("bin", "sbin", "dev", "proc", "sys", "tmp", "mnt", "etc", "modules"):
            (root / name).mkdir()
        _add_busybox(root)
        for program in PROGRAMS:
            _add_program(root, Path(program))
        _add_modules(root, kernel)
        shutil.copy("/etc/mke2fs.conf", root / "etc")  # without it mke2fs knows no ext4
        (root / "etc" / "mtab").symlink_to("/proc/mounts")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with target.open("wb") as archive:
            subprocess.run(
                ["cpio", "--quiet", "-0", "-o", "-H", "newc", "-R", "0:0"],
                input=names.encode(),
                cwd=root,
                stdout=archive,
                check=True,
            )
    return target


def _add_busybox(root: Path) -> None:
    busybox = BUSYBOX if os.path.exists(BUSYBOX) else BUSYBOX_FALLBACK
    if not os.path.exists(busybox):
        raise GuestError("busybox is not there: install busybox-static")
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in _output(busybox, "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")


def _add_program(root: Path, program: Path) -> None:
    if not program.exists():
        raise GuestError(f"{program} is not there: install nbd-client and e2fsprogs")
    shutil.copy(program, root / "sbin" / program.name)
    for line in _output("ldd", str(program)).splitlines():
        for word in line.split():
            if word.startswith("/"):
                copy = root / word.lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                if not copy.exists():
                    shutil.copy(word, copy)  # the soname, followed to the file that it points to


def _add_modules(root: Path, kernel: Kernel) -> None:
    options = {"nbd": "nbds_max=4"}
    present = [module for module in MODULES if (kernel.modules / f"{module}.ko").exists()]
    for module in present:
        shutil.copy(kernel.modules / f"{module}.ko", root / "modules")
    order = "".join(f"{module} {options.get(module, '')}\n" for module in present)
    (root / "modules" / "order").write_text(order)


if __name__ == "__main__":
    try:
        print(ensure_kernel().vmlinuz)
    except GuestError as error:
        sys.exit(f"guest kernel: {error}")
