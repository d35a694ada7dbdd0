"""The quickstart's story, step by step: three sites, two volumes, a file system, a lost site.

May live here: the steps and their proofs, in the order in which a newcomer sees them, by the commands that
a newcomer would type. Processes and files of the sites are `quickstart_sites`.
Keeps: run again, it starts only what does not run, builds only what is missing, and never overwrites a
volume whose content it did not write itself.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from quickstart_sites import (
    CHECKOUT,
    CONTEXT,
    NAMES,
    SITES,
    STATE,
    VIMRAFT,
    QuickstartError,
    configure,
    kill_site,
    take_down,
)

MIB = 1 << 20
SSD_MIB = 257
"""Each site's ssd: 256 MiB to give, and one for the label."""
HDD_MIB = 513
ALPHA_MIB = 128
BETA_MIB = 256
"""More than tokyo's ssd has left beside alpha: the rest comes from nagoya."""
GAMMA_MIB = 64
IMAGE = STATE / "files.ext4"
BACK = STATE / "read-back.ext4"
WRITING = STATE / "alpha.writing"
"""There while alpha is written for the first time: a run that was cut off there may do it again."""
LOST = SITES[1]
UNAVAILABLE = 5
"""Exit code of the command line while there is no leader: nothing was changed, ask again."""
HEALTHY_S = 60.0
COMMAND_S = 90.0
NARROW = 100


class Story:
    """Prints numbered steps, runs commands and stops at the first that fails."""

    def __init__(self, step: int, steps: int) -> None:
        self._step = step
        self._steps = steps
        self._colour = sys.stdout.isatty()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._step += 1
        began_s = time.monotonic()
        self._print(f"[{self._step}/{self._steps}] {title}")
        try:
            yield
        except subprocess.TimeoutExpired as error:
            raise QuickstartError(f"{error.cmd}: no end within {error.timeout:.0f} s") from None
        self._print(f"      done in {time.monotonic() - began_s:.1f} s")

    def say(self, text: str) -> None:
        self._print(f"      {text}")

    def finish(self) -> None:
        if self._step != self._steps:
            raise AssertionError(f"{self._step} steps were made, {self._steps} were announced")

    def vimraft(self, *words: str, retry_s: float = 0.0) -> str:
        """Runs the command line and shows the command. `retry_s`: go on asking while there is no leader."""
        self._dim(" ".join(("$ vimraft", *words)))
        deadline_s = time.monotonic() + retry_s
        while True:
            done = _run(str(VIMRAFT), *words)
            if done.returncode == 0:
                return done.stdout
            if done.returncode != UNAVAILABLE or time.monotonic() > deadline_s:
                raise QuickstartError(
                    f"vimraft {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
                )
            time.sleep(0.2)

    def tool(self, *words: str) -> None:
        self._dim("$ " + " ".join(word.replace(f"{CHECKOUT}/", "") for word in words))
        done = _run(*words)
        if done.returncode != 0:
            raise QuickstartError(f"{words[0]}: exit {done.returncode}\n{done.stdout}{done.stderr}")

    def _dim(self, text: str) -> None:
        self._print(f"      \033[2m{text}\033[0m" if self._colour else f"      {text}")

    def _print(self, text: str) -> None:
        print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--down", action="store_true")
    parser.add_argument("--step", type=int, default=0, help="steps made before this program")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--elapsed", type=int, default=0, help="seconds they took")
    options = parser.parse_args()
    began_s = time.monotonic() - options.elapsed
    try:
        if options.down:
            print(f"quickstart: ended {take_down()} processes and removed {STATE}")
            return 0
        tell(Story(options.step, options.steps))
    except KeyboardInterrupt:
        print(
            "\nquickstart: interrupted. deploy/quickstart goes on, deploy/quickstart --down ends it.",
            file=sys.stderr,
        )
        return 130
    except QuickstartError as error:
        print(f"\nquickstart: failed: {error}", file=sys.stderr)
        print("Run deploy/quickstart again, or deploy/quickstart --down and start anew.", file=sys.stderr)
        return 1
    print(f"All of it took {time.monotonic() - began_s:.0f} s.\nquickstart: ok")
    return 0


def tell(story: Story) -> None:
    start_sites(story)
    add_real_volumes(story)
    fresh = build_volumes(story)
    image_sum = make_image(story)
    ours = write_and_read_back(story, image_sum, fresh=fresh)
    lose_site(story)
    extra = go_on_without(story, image_sum, ours=ours)
    bring_back(story, extra)
    show(story)
    story.finish()


def start_sites(story: Story) -> None:
    with story.step(f"Three sites on loopback: {', '.join(NAMES)}"):
        if configure():
            story.say(f"wrote {STATE.name}/{{{','.join(NAMES)}}}/site.toml and {STATE.name}/{CONTEXT.name}")
        for site in SITES:
            if site.manager_pid() is None:
                story.say(f"$ vimraft site run --config {site.config.relative_to(CHECKOUT)} &")
                site.start()
            else:
                story.say(f"{site.name} is running")
        status = wait_for(lambda: _healthy(*NAMES), "all three sites healthy, with a leader")
        story.say(f"leader: {status['leader']}")


def add_real_volumes(story: Story) -> None:
    with story.step("Two real volumes at each site: an ssd and a slow-hdd (sparse files)"):
        present = {real["id"] for real in _status()["reals"]}
        for site in SITES:
            if f"{site.address}:0" not in present:
                story.vimraft(
                    "storage", "add", site.address, "--site", site.name, "--uri", f"file://{site.disks}"
                )
            for lun, volume_class, size_mib in ((0, "ssd", SSD_MIB), (1, "slow-hdd", HDD_MIB)):
                if f"{site.address}:{lun}" not in present:
                    where = ("--storage", site.address, "--lun", str(lun))
                    story.vimraft("real", "add", *where, "--class", volume_class, "--size", f"{size_mib}M")


def build_volumes(story: Story) -> bool:
    """True when alpha was built now."""
    with story.step("Two virtual volumes: alpha at tokyo alone, beta at tokyo and on to nagoya"):
        present = _volumes()
        if "alpha" not in present:
            _create(story, "alpha", ALPHA_MIB, "tokyo")
        if "beta" not in present:
            _create(story, "beta", BETA_MIB, "tokyo,nagoya")
        for name in ("alpha", "beta"):
            story.say(f"{name} lies at {' and '.join(_volumes()[name]['sites'])}")
        if len(_volumes()["beta"]["sites"]) != 2:
            raise QuickstartError("beta was to spill over two sites, and did not")
        return "alpha" not in present


def make_image(story: Story) -> str:
    """A file system with real files in it; its checksum."""
    with story.step(
        f"An ext4 file system of {ALPHA_MIB} MiB with real files: this checkout, Python's library"
    ):
        if not IMAGE.exists():
            files = STATE / "files"
            shutil.rmtree(files, ignore_errors=True)
            skip = shutil.ignore_patterns("__pycache__", "test", "dist-packages", "config-*")
            for name in ("vimraft", "nbd_plugin", "deploy", "docs", "tests"):
                if (CHECKOUT / name).exists():
                    shutil.copytree(CHECKOUT / name, files / name, symlinks=True, ignore=skip)
            library = Path("/usr/lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
            shutil.copytree(library, files / library.name, symlinks=True, ignore=skip)
            part = IMAGE.with_suffix(".part")
            part.unlink(missing_ok=True)
            story.tool("mke2fs", "-q", "-t", "ext4", "-d", str(files), str(part), f"{ALPHA_MIB}M")
            part.rename(IMAGE)
            shutil.rmtree(files)
        checksum = _file_sum(IMAGE)
        story.say(f"sha256 {checksum}")
    return checksum


def write_and_read_back(story: Story, image_sum: str, *, fresh: bool) -> bool:
    """True when alpha holds the image; False when somebody has put something else there since."""
    with story.step("Write it to alpha through tokyo, read it back through nagoya"):
        ours = (
            fresh or WRITING.exists() or _volume_sum("alpha", "tokyo") in (image_sum, _zeros_sum(ALPHA_MIB))
        )
        if not ours:
            story.say("alpha holds other data by now: it is left as it is, and only read")
            image_sum = _volume_sum("alpha", "tokyo")
        else:
            WRITING.touch()
            story.tool("nbdcopy", "--flush", str(IMAGE), _uri("alpha", "tokyo"))
            WRITING.unlink()
        BACK.unlink(missing_ok=True)
        story.tool("nbdcopy", _uri("alpha", "nagoya"), str(BACK))
        _expect("alpha through nagoya", _file_sum(BACK), image_sum)
        if ours:
            story.tool("e2fsck", "-f", "-n", str(BACK))
        BACK.unlink()
        story.say(
            "checksums agree, and the file system is clean" if ours else "both sites show the same bytes"
        )
    return ours


def lose_site(story: Story) -> None:
    with story.step(f"{LOST.name} loses its power: kill -9 of its manager, export and store"):
        role = next(site["role"] for site in _status()["sites"] if site["name"] == LOST.name)
        story.say(f"{kill_site(LOST)} processes killed; {LOST.name} was {role}")


def go_on_without(story: Story, image_sum: str, *, ours: bool) -> str:
    """Returns the name of the volume that was built meanwhile."""
    with story.step("The others go on: read, write, and build a volume"):
        if ours:
            _expect("alpha through nagoya", _volume_sum("alpha", "nagoya"), image_sum)
            story.tool("nbdcopy", "--flush", str(IMAGE), _uri("alpha", "nagoya"))
            _expect("alpha through tokyo", _volume_sum("alpha", "tokyo"), image_sum)
        else:
            _expect("alpha through nagoya", _volume_sum("alpha", "nagoya"), _volume_sum("alpha", "tokyo"))
        if _volume_sum("beta", "tokyo") != _volume_sum("beta", "nagoya"):
            raise QuickstartError("tokyo and nagoya show different bytes of beta")
        name = "drill" if "gamma" in _volumes() else "gamma"
        if name in _volumes():
            story.vimraft("vol", "rm", name, "--purge", "--yes", retry_s=HEALTHY_S)
        _create(story, name, GAMMA_MIB, "nagoya,tokyo")
        _write_gamma(story, name)
    return name


def _write_gamma(story: Story, name: str) -> None:
    part = STATE / "part.img"
    with IMAGE.open("rb") as source, part.open("wb") as target:
        target.write(source.read(GAMMA_MIB * MIB))
    story.tool("nbdcopy", "--flush", str(part), _uri(name, "tokyo"))
    _expect(f"{name} through nagoya", _volume_sum(name, "nagoya"), _file_sum(part))
    story.say(f"alpha, beta and {name}: the same bytes at tokyo and nagoya")


def bring_back(story: Story, extra: str) -> None:
    with story.step(f"{LOST.name} comes back and catches up"):
        LOST.start()
        wait_for(lambda: _healthy(*NAMES), f"{LOST.name} healthy again")
        part = STATE / "part.img"
        wait_for(lambda: _at_lost(extra), f"{LOST.name} knowing the volume {extra}")
        _expect(f"{extra} through {LOST.name}", _volume_sum(extra, LOST.name), _file_sum(part))
        part.unlink()
        story.say(f"{LOST.name} serves {extra}, which was built while it was away")
        if extra != "gamma":
            story.vimraft("vol", "rm", extra, "--purge", "--yes", retry_s=HEALTHY_S)


def show(story: Story) -> None:
    with story.step("The tables, as every site holds them"):
        width = {} if sys.stdout.isatty() else {"COLUMNS": str(NARROW)}
        print(flush=True)
        subprocess.run([VIMRAFT, "tables"], env=os.environ | width, check=True, timeout=COMMAND_S)
        print(flush=True)
    nbd = SITES[0].network()["nbd"]
    print(
        f"""
The three sites are left running. What to try next (.venv/bin/vimraft finds them by itself):
  .venv/bin/vimraft status                 sites, real volumes, virtual volumes
  .venv/bin/vimraft top                    the same, live
  .venv/bin/vimraft map show beta          where beta's sectors lie
  .venv/bin/vimraft attach alpha           as /dev/nbdN of this host, then: mount /dev/nbdN /mnt
  nbdinfo --list nbd://{nbd}      what tokyo serves to any NBD client
  qemu-system-x86_64 -drive file={_uri("alpha", "nagoya")},format=raw …
Tear down, data included:
  deploy/quickstart --down
""",
        flush=True,
    )


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Polls until `condition` gives something true. A manager that ended is an error at once."""
    deadline_s = time.monotonic() + HEALTHY_S
    while not (found := condition()):
        for site in SITES:
            if site.manager_pid() is None:
                raise QuickstartError(f"the manager of {site.name} ended. Its log:\n{site.log_tail()}")
        if time.monotonic() > deadline_s:
            logs = "\n".join(f"--- {site.log}\n{site.log_tail()}" for site in SITES)
            raise QuickstartError(f"not within {HEALTHY_S:.0f} s: {what}\n{logs}")
        time.sleep(0.1)
    return found


def _healthy(*names: str) -> dict[str, Any] | None:
    status = _status_or_none()
    if status is None or not status["leader"]:
        return None
    healthy = {
        s["name"] for s in status["sites"] if s["healthy"] and s["pid"]["export"] and s["pid"]["store"]
    }
    return status if healthy >= set(names) else None


def _at_lost(volume: str) -> bool:
    done = _run(str(VIMRAFT), "--api", f"http://{LOST.network()['api']}", "status", "-o", "json")
    return done.returncode == 0 and volume in {v["name"] for v in json.loads(done.stdout)["volumes"]}


def _status_or_none() -> dict[str, Any] | None:
    done = _run(str(VIMRAFT), "status", "-o", "json")
    if done.returncode != 0:
        return None
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def _status() -> dict[str, Any]:
    status = wait_for_status()
    if status is None:
        raise QuickstartError("`vimraft status` gives no answer; see .vimraft/*/manager.log")
    return status


def wait_for_status() -> dict[str, Any] | None:
    deadline_s = time.monotonic() + HEALTHY_S
    while (status := _status_or_none()) is None and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return status


def _volumes() -> dict[str, Any]:
    return {volume["name"]: volume for volume in _status()["volumes"]}


def _create(story: Story, name: str, size_mib: int, sites: str) -> None:
    conditions = ("--size", f"{size_mib}M", "--class", "ssd", "--site", sites, "--wait")
    story.vimraft("vol", "create", name, *conditions, retry_s=HEALTHY_S)


@cache
def _uri(volume: str, site: str) -> str:
    done = _run(str(VIMRAFT), "vol", "uri", volume, "--site", site)
    if done.returncode != 0:
        raise QuickstartError(f"vimraft vol uri {volume} --site {site}: {done.stderr}")
    return done.stdout.strip()


def _volume_sum(volume: str, site: str) -> str:
    """sha256 of all of `volume`, read through `site`."""
    digest = hashlib.sha256()
    with subprocess.Popen(
        ["nbdcopy", _uri(volume, site), "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        while block := reader.stdout.read(MIB):
            digest.update(block)
        complaint = reader.stderr.read().decode(errors="replace")
    if reader.returncode != 0:
        raise QuickstartError(f"reading {volume} through {site}: {complaint}")
    return digest.hexdigest()


def _file_sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _zeros_sum(size_mib: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size_mib):
        digest.update(bytes(MIB))
    return digest.hexdigest()


def _expect(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise QuickstartError(f"{what}: sha256 {found}, expected {wanted}")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=COMMAND_S, stdin=subprocess.DEVNULL
    )


if __name__ == "__main__":
    sys.exit(main())
