# shellcheck shell=bash
# Functions that the scripts of deploy/ share; sourced, never run.
#
# What may live here: numbered steps with their progress, Debian packages, the virtual environment.
# Rules: nothing is asked for (no terminal, no stdin, no HOME needed); what is there already is not touched
# and needs no network; a step that fails shows its log and ends the script.

set -euo pipefail

# The first python3 on PATH decides which interpreter nbdkit embeds, so a pyenv must not be first.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV
HOME="${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}"
export HOME="${HOME:-/tmp}"
export LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive

CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$CHECKOUT/.venv"
CACHE="$CHECKOUT/.cache"
LOG="$CACHE/$(basename "$0").log"
STAMP="$VENV/.vimraft-installed"
LOG_TAIL_LINES=40
HEARTBEAT_S=15

STEP=0
STEPS=0

# shellcheck disable=SC2034 # the scripts that source this use them
PACKAGES_RUN=(
    python3 python3-venv python3-libnbd ca-certificates
    nbdkit nbdkit-plugin-python libnbd-bin nbd-client e2fsprogs
)
# shellcheck disable=SC2034
PACKAGES_TEST=(
    busybox-static cpio fio iproute2 kmod libfaketime nftables qemu-system-x86 qemu-utils shellcheck strace tmux
)

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# begin STEPS: how many steps this run has; starts a new log.
begin() {
    STEPS="$1"
    mkdir -p "$CACHE"
    : >"$LOG"
}

# step TITLE COMMAND…: runs COMMAND with its output in the log; shows the title, the seconds and the outcome.
step() {
    local title="$1" pid status=0 began="$SECONDS" elapsed shown=0
    shift
    STEP=$((STEP + 1))
    printf '\n== %s: %s ==\n' "$(date -u +%FT%TZ)" "$title" >>"$LOG"
    [[ -t 1 ]] || printf '[%d/%d] %s\n' "$STEP" "$STEPS" "$title"
    # shellcheck disable=SC2094 # the step looks at the log's end for messages of its own only
    "$@" >>"$LOG" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        elapsed=$((SECONDS - began))
        if [[ -t 1 ]]; then
            printf '\r[%d/%d] %s … %d s ' "$STEP" "$STEPS" "$title" "$elapsed"
        elif ((elapsed >= shown + HEARTBEAT_S)); then
            shown="$elapsed"
            printf '      … %d s\n' "$elapsed"
        fi
        sleep 0.1
    done
    wait "$pid" || status=$?
    elapsed=$((SECONDS - began))
    if ((status != 0)); then
        printf '\n--- last lines of %s\n' "$LOG" >&2
        tail -n "$LOG_TAIL_LINES" "$LOG" >&2
        die "step $STEP ($title) failed after $elapsed s; the whole log is $LOG"
    fi
    [[ -t 1 ]] && printf '\r[%d/%d] %s' "$STEP" "$STEPS" "$title" || printf '     '
    printf ' done in %d s\n' "$elapsed"
}

missing_packages() {
    local package
    for package in "$@"; do
        [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || printf '%s\n' "$package"
    done
}

# For package lists and installation: works as root, else through sudo.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    else
        printf 'this needs root, and there is no sudo: run as root: %s\n' "$*"
        return 1
    fi
}

apt_update() {
    as_root apt-get update -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3
}

apt_install() {
    apt_update
    as_root apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 \
        -o Dpkg::Use-Pty=0 "$@"
}

# ensure_packages PACKAGE…: apt is not even asked when all are there.
ensure_packages() {
    local missing
    [[ -e /etc/debian_version ]] || die "this is not Debian; vimraft is built and tested on Debian 12"
    mapfile -t missing < <(missing_packages "$@")
    if ((${#missing[@]} == 0)); then
        step "Debian packages (all ${#} are there)" true
    else
        step "Debian packages: ${missing[*]}" apt_install "${missing[@]}"
    fi
}

unpack_packages() {
    local directory="$1" work
    shift
    work="$(mktemp -d "$CACHE/.unpack-XXXXXX")"
    (
        cd "$work"
        apt-get download -q -o APT::Sandbox::User=root "$@" || { apt_update && apt-get download -q -o APT::Sandbox::User=root "$@"; }
        for package in ./*.deb; do
            dpkg-deb -x "$package" files
        done
    )
    rm -rf "$directory"
    mv "$work/files" "$directory"
    rm -rf "$work"
}

# fetch_packages DIRECTORY PACKAGE…: unpacked below DIRECTORY, not installed, so no service starts; not
# fetched again once it is there. Needs no root.
fetch_packages() {
    local directory="$1"
    shift
    if [[ -d "$directory" ]]; then
        step "Debian packages, unpacked only: $* (are there)" true
    else
        step "Debian packages, unpacked only: $*" unpack_packages "$directory" "$@"
    fi
}

# What an installation depends on: when none of it changed, there is nothing to do.
venv_key() {
    { cat "$CHECKOUT/pyproject.toml" && /usr/bin/python3 --version && printf '%s\n' "$CHECKOUT"; } | sha256sum
}

# Debian's interpreter (nbdkit embeds the same), seeing Debian's packages (libnbd is only there), with pip.
usable_venv() {
    grep -qx 'home = /usr/bin' "$VENV/pyvenv.cfg" 2>/dev/null &&
        grep -qx 'include-system-site-packages = true' "$VENV/pyvenv.cfg" &&
        "$VENV/bin/python" -c 'import pip' 2>/dev/null
}

make_venv() {
    local extra="$1"
    exec 9>"$CACHE/install.lock"
    flock 9 # another of these scripts may be at it
    if ! usable_venv; then
        /usr/bin/python3 -m venv --clear --system-site-packages "$VENV"
    fi
    rm -f "$STAMP."*
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
        --root-user-action ignore -e "$CHECKOUT$extra"
    "$VENV/bin/vimraft" --help >/dev/null
    "$VENV/bin/python" -c 'import nbd'
}

# ensure_venv run|dev: the virtual environment with vimraft in it; dev: with the tools for tests too.
ensure_venv() {
    local kind="$1" key
    key="$(venv_key)"
    # An environment with the tools for tests is also good for running.
    if [[ "$(cat "$STAMP.$kind" 2>/dev/null)" == "$key" || "$(cat "$STAMP.dev" 2>/dev/null)" == "$key" ]] &&
        [[ -x "$VENV/bin/vimraft" ]]; then
        step "Virtual environment .venv (is there)" true
        return
    fi
    if [[ "$kind" == dev ]]; then
        step "Virtual environment .venv, with the tools for tests" make_venv '[dev]'
    else
        step "Virtual environment .venv" make_venv ''
    fi
    printf '%s\n' "$key" >"$STAMP.$kind"
}
