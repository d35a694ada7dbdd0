"""`vimraft storage …` and `vimraft real …`: devices and the real volumes on them.

May live here: the commands on storages and real volumes.
"""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import BadArgument
from vimraft.api.schema import AddRealRequest, StorageRequest
from vimraft.api.units import format_bytes, parse_size
from vimraft.cli.following import follow
from vimraft.cli.options import (
    Output,
    RealArgument,
    Yes,
    complete_class,
    complete_real,
    complete_site,
    complete_storage,
    confirm,
    options,
    split_real,
)
from vimraft.cli.output import Format
from vimraft.console import render
from vimraft.core.ids import MAX_LUN, name_problem

storage = typer.Typer(no_args_is_help=True, help="Storages: devices at a site, named by an address.")
real = typer.Typer(no_args_is_help=True, help="Real volumes: LUNs of storages, pooled by class.")

StorageArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="storage address", autocompletion=complete_storage)
]


@storage.command("add")
def add_storage(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(help="short address, such as 021a00")],
    site: Annotated[str, typer.Option("--site", help="where it stands", autocompletion=complete_site)],
    uri: Annotated[
        str, typer.Option("--uri", help="where it is: file:///DIR, block:///dev/DISK, nbd://HOST:PORT/EXPORT")
    ] = "",
    _output: Output = Format.TABLE,
) -> None:
    """Add a storage, or change the URI of one."""
    problem = name_problem(address)
    if problem is not None:
        raise BadArgument("storage address", address, f"a name; it {problem}")
    reply = options(ctx).client().set_storage(StorageRequest(address=address, site=site, uri=uri))
    options(ctx).data(reply, lambda: Text(f"storage {address} is at site {site}"))


@storage.command("ls")
def list_storages(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the storages with the space on their real volumes."""
    status = options(ctx).client().status()
    rows: dict[str, dict[str, str | int]] = {
        known.address: {
            "address": known.address, "site": known.site, "uri": known.uri, "reals": 0, "capacity_bytes": 0,
            "free_bytes": 0,
        }
        for known in status.storages
    }  # fmt: skip
    for found in status.reals:
        row = rows.setdefault(
            found.storage,
            {
                "address": found.storage, "site": found.site, "uri": "", "reals": 0, "capacity_bytes": 0,
                "free_bytes": 0,
            },
        )  # fmt: skip
        row["reals"] = int(row["reals"]) + 1
        row["capacity_bytes"] = int(row["capacity_bytes"]) + found.capacity_bytes
        row["free_bytes"] = int(row["free_bytes"]) + found.free_bytes

    def table() -> RenderableType:
        shown = render.Sheet(
            ("storage", "left"), ("site", "left"), ("real volumes", "right"), ("free", "right"),
            ("capacity", "right"), ("URI", "left"),
        )  # fmt: skip
        for row in rows.values():
            free, capacity = int(row["free_bytes"]), int(row["capacity_bytes"])
            shown.add(
                str(row["address"]), str(row["site"]), str(row["reals"]), format_bytes(free, "down"),
                format_bytes(capacity, "down"), str(row["uri"]),
            )  # fmt: skip
        return Group(shown, render.as_of_line(status.as_of))

    options(ctx).data(list(rows.values()), table)


@storage.command("rm")
def remove_storage(
    ctx: typer.Context, address: StorageArgument, yes: Yes = False, _output: Output = Format.TABLE
) -> None:
    """Remove a storage that has no real volumes."""
    confirm(ctx, yes, f"removing storage {address}")
    reply = options(ctx).client().remove_storage(address)
    options(ctx).data(reply, lambda: Text(f"storage {address} removed"))


@real.command("add")
def add_real(
    ctx: typer.Context,
    storage_address: Annotated[
        str,
        typer.Option(
            "--storage", metavar="ADDRESS", help="storage it is on", autocompletion=complete_storage
        ),
    ],
    lun: Annotated[int, typer.Option(min=0, max=MAX_LUN, help="number of the LUN")],
    volume_class: Annotated[
        str,
        typer.Option("--class", metavar="CLASS", help="fast-hdd, ssd, nvme …", autocompletion=complete_class),
    ],
    uri: Annotated[str, typer.Option("--uri", help="default: the storage's URI with lun-N appended")] = "",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIZE", help="create the file with this size if it is missing"),
    ] = None,
    preallocate: Annotated[
        bool, typer.Option("--preallocate", help="reserve the file's space on its file system now")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="take a device that carries data: IT IS OVERWRITTEN")
    ] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Label a device, make it empty, and put it into the pool of its site."""
    request = AddRealRequest(
        storage=storage_address,
        lun=lun,
        volume_class=volume_class,
        uri=uri,
        size_bytes=None if size is None else parse_size(size),
        preallocate=preallocate,
        force=force,
    )
    opts = options(ctx)
    client = opts.client()
    job = follow(opts, client, client.add_real(request))
    opts.data(job, lambda: Text(f"real volume {storage_address}:{lun} is in the pool (class {volume_class})"))


@real.command("ls")
def list_reals(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the real volumes with their free space."""
    status = options(ctx).client().status()

    def table() -> RenderableType:
        if not status.reals:
            return Group(Text("no real volume yet: vimraft real add"), render.as_of_line(status.as_of))
        return Group(render.reals_table(status.reals), render.as_of_line(status.as_of))

    options(ctx).data(status.reals, table)


@real.command("exclude")
def exclude(ctx: typer.Context, name: RealArgument, _output: Output = Format.TABLE) -> None:
    """Take no more space from a real volume; what lies on it stays and is served."""
    address, lun = split_real(name)
    reply = options(ctx).client().set_real(address, lun, "excluded")
    options(ctx).data(reply, lambda: Text(f"real volume {name} gives no more space"))


@real.command("include")
def include(ctx: typer.Context, name: RealArgument, _output: Output = Format.TABLE) -> None:
    """Take space from a real volume again."""
    address, lun = split_real(name)
    reply = options(ctx).client().set_real(address, lun, "active")
    options(ctx).data(reply, lambda: Text(f"real volume {name} gives space again"))


@real.command("rm")
def remove_real(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="STORAGE:LUN", help="an empty one", autocompletion=complete_real)
    ],
    yes: Yes = False,
    _output: Output = Format.TABLE,
) -> None:
    """Take a real volume out of the pool; nothing may lie on it."""
    address, lun = split_real(name)
    confirm(ctx, yes, f"removing real volume {name}")
    reply = options(ctx).client().remove_real(address, lun)
    options(ctx).data(reply, lambda: Text(f"real volume {name} removed"))
