"""`vimraft attach` and `vimraft detach`: a volume as a block device of this host.

May live here: the two commands, and asking the export whether it may be used over several connections.
"""

import importlib
import shlex
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from vimraft.api.caller_errors import BadArgument, NoNbdModule
from vimraft.cli.nbd_device import Machine, connect_command, device_name
from vimraft.cli.options import Output, SiteOption, VolumeArgument, options
from vimraft.cli.output import Format

MAX_CONNECTIONS = 16
DEFAULT_CONNECTIONS = 4
"""One connection carries one request at a time through a plaintext export; four keep a disk busy."""


def make_machine() -> Machine:
    """This host. Tests put a small tree in its place."""
    return Machine()


def allows_several_connections(uri: str) -> bool:
    """Whether the export says multi-conn (the kernel refuses several connections otherwise). Asked through
    libnbd; without it one connection is always right."""
    try:
        nbd = importlib.import_module("nbd")
    except ImportError:
        return False
    handle = nbd.NBD()
    try:
        handle.connect_uri(uri)
        allowed = bool(handle.can_multi_conn())
        handle.shutdown()
    except nbd.Error:
        return False  # nbd-client will say why it cannot connect
    return allowed


def attach(
    ctx: typer.Context,
    volume: VolumeArgument,
    site: SiteOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="/dev/nbdN", help="default: the first free one")
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_CONNECTIONS, help=f"default: {DEFAULT_CONNECTIONS} where the export allows it"
        ),
    ] = None,
    block_size: Annotated[
        int, typer.Option("--block-size", help="512 or 4096; see the sectors of the device")
    ] = 512,
    read_only: Annotated[bool, typer.Option("--read-only", help="refuse writes at the device")] = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="print the nbd-client command, run nothing")
    ] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Attach a volume to this host as /dev/nbdN, through nbd-client (needs root)."""
    if block_size not in (512, 4096):
        raise BadArgument("--block-size", str(block_size), "512 or 4096")
    wanted = device_name(device) if device is not None else None
    if device is not None and wanted is None:
        raise BadArgument("--device", device, "/dev/nbdN")
    opts = options(ctx)
    machine = make_machine()
    where = opts.client().volume_uri(volume, site)
    if connections is None:
        connections = DEFAULT_CONNECTIONS if allows_several_connections(where.uri) else 1

    def command(path: str) -> Sequence[str]:
        return connect_command(
            host=where.host, port=where.port, export=where.export, device=path, connections=connections,
            block_bytes=block_size, read_only=read_only,
        )  # fmt: skip

    if print_only:
        path = f"/dev/{wanted or machine.free_device() or 'nbd0'}"
        opts.raw(shlex.join(command(path)))
        return
    machine.load_module(where.uri)
    if not machine.devices():
        raise NoNbdModule(where.uri, "there is no /sys/block/nbd0 here, as in many containers")
    attached = machine.attach(volume, where.uri, wanted, command)
    facts = {"device": attached, "volume": volume, "site": where.site, "uri": where.uri}
    opts.data(facts, lambda: Text(f"{volume} is attached as {attached} (through {where.site})"))


def _complete_attached() -> list[str]:
    found = make_machine().attachments()
    return [name for a in found for name in (a.volume, f"/dev/{a.device}")]


def detach(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="VOLUME|/dev/nbdN", help="what to detach",
            autocompletion=lambda incomplete: [n for n in _complete_attached() if n.startswith(incomplete)],
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="give up what cannot be written back; never what is in use")
    ] = False,
    _output: Output = Format.TABLE,
) -> None:  # fmt: skip
    """Flush and detach a volume from this host. Refused while it is mounted or otherwise in use."""
    machine = make_machine()
    device = machine.find(name)
    machine.detach(device, force=force)
    path = str(machine.device_path(device))
    options(ctx).data({"device": path}, lambda: Text(f"{path} is detached"))
