"""`vimraft tls …`: the cluster's own CA, and one certificate per manager.

May live here: the commands, which only touch local files; the certificates themselves are
vimraft.metadata.certificates'. The CA's key is written readable by its owner alone, and no manager needs it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vimraft.api.caller_errors import BadArgument, CannotStart
from vimraft.cli.options import Output, options
from vimraft.cli.output import Format
from vimraft.console import render
from vimraft.core.ids import name_problem
from vimraft.site.config import split_address

if TYPE_CHECKING:
    from vimraft.metadata.certificates import Described

tls = typer.Typer(no_args_is_help=True, help="Certificates for the links between managers.")

DaysOption = Annotated[
    int | None, typer.Option("--days", min=1, max=3_650, help="how long it is valid; default: 825, a CA 3650")
]


@tls.command("init")
def init(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="for the CA's key and certificate")],
    cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="name in the CA")] = "cluster",
    days: DaysOption = None,
    _output: Output = Format.TABLE,
) -> None:
    """Make the cluster's CA. Keep its key off the managers' hosts, and keep a copy of it."""
    from vimraft.metadata import certificates  # only here: it costs every command 80 ms

    problem = name_problem(cluster)
    if problem is not None:
        raise BadArgument("--cluster", cluster, f"a name ({problem})")
    with _explained():
        ca = certificates.make_ca(directory, cluster, days or certificates.CA_DAYS)
    opts = options(ctx)
    key = directory / certificates.CA_KEY
    facts = {"ca": str(ca), "key": str(key)}
    advice = f"next: vimraft tls issue NAME --raft HOST:PORT --ca {directory}"
    opts.data(facts, lambda: Text(f"made {ca} and {key}; {advice}"))


@tls.command("issue")
def issue(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the manager")],
    raft: Annotated[
        str, typer.Option("--raft", metavar="HOST:PORT", help="its network.raft, exactly as configured")
    ],
    ca: Annotated[
        Path, typer.Option("--ca", metavar="DIR", help="where vimraft tls init made the CA")
    ] = Path(),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="for NAME.crt and NAME.key; default: that of --ca"),
    ] = None,
    days: DaysOption = None,
    _output: Output = Format.TABLE,
) -> None:
    """Make a manager's key and certificate, or renew them (running managers take up new files themselves)."""
    from vimraft.metadata import certificates

    problem = name_problem(name)
    if problem is not None or name == Path(certificates.CA_CERT).stem:
        raise BadArgument("NAME", name, f"the name of a manager ({problem or 'this one is the CA'})")
    _check_address(raft)
    with _explained():
        cert, key = certificates.issue(name, raft, ca, out or ca, days or certificates.CERT_DAYS)
    opts = options(ctx)
    ca_cert = ca / certificates.CA_CERT
    facts = {"ca": str(ca_cert), "cert": str(cert), "key": str(key)}
    lines = "\n".join(f'{option} = "{value}"' for option, value in facts.items())
    advice = f"copy them and {ca_cert} to {name}, and name them in its site.toml:\n[tls]\n{lines}"
    opts.data(facts, lambda: Text(f"made {cert} and {key}; {advice}"))


@tls.command("show")
def show(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a certificate")],
    _output: Output = Format.TABLE,
) -> None:
    """Show whose certificate a file holds, and until when it is valid."""
    from vimraft.metadata import certificates

    with _explained():
        found = certificates.describe(file)
    options(ctx).data(found, lambda: _sheet(found))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from vimraft.metadata.certificates import CertificateProblem

    try:
        yield
    except CertificateProblem as problem:
        raise CannotStart("local", str(problem)) from None  # it names thing, cause and remedy itself


def _check_address(raft: str) -> None:
    try:
        split_address(raft)
    except ValueError as error:
        raise BadArgument("--raft", raft, f"HOST:PORT, as in network.raft: {error}") from None


def _sheet(found: "Described") -> render.Sheet:
    shown = render.Sheet(("", "left"), ("", "left"))
    shown.add("for", ", ".join(found.raft_addresses) or ("the CA" if found.is_ca else "no Raft address"))
    shown.add("subject", found.subject)
    shown.add("issuer", found.issuer)
    shown.add("valid from", found.valid_from)
    shown.add("valid until", found.valid_until + (" (expired)" if found.expired else ""))
    shown.add("serial", found.serial)
    shown.add("sha256", found.sha256)
    return shown
