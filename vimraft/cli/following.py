"""Following a job until it ends, with its progress.

May live here: the progress bar on stderr, and what ends it. The job runs at a manager: who stops looking
stops nothing.
"""

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from vimraft.api.caller_errors import JobFailed
from vimraft.api.client import Client
from vimraft.api.schema import JobReply
from vimraft.api.units import format_age, format_bytes
from vimraft.cli.output import Format, Options

POLL_S = 0.2

Background = Annotated[
    bool, typer.Option("--background", help="start it and return: see it with vimraft job ls")
]


def speed_text(job: JobReply) -> str:
    """`45 MiB/s, 3 min left`; empty while nothing is known."""
    if not job.bytes_s:
        return ""
    left = f", {format_age(job.eta_seconds)} left" if job.eta_seconds is not None else ""
    return f"{format_bytes(int(job.bytes_s))}/s{left}"


def follow(opts: Options, client: Client, job: JobReply) -> JobReply:
    """Show a job's progress on stderr until it ends. Raises JobFailed."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[speed]}"),
        TextColumn("[dim]{task.fields[note]}"),
        console=opts.err,
        transient=True,
        disable=opts.format is not Format.TABLE or not opts.err.is_terminal,
    )
    try:
        with progress:
            task = progress.add_task(job.what, total=job.total_bytes or None, speed="", note="")
            while job.state == "running":
                progress.update(
                    task,
                    completed=job.done_bytes,
                    total=job.total_bytes or None,
                    speed=speed_text(job),
                    note=job.note.replace("[", "\\["),
                )
                time.sleep(POLL_S)
                job = client.job(job.id)
    except KeyboardInterrupt:
        if job.cancellable:
            opts.note(f"it goes on: vimraft job follow {job.id}; to stop it: vimraft job cancel {job.id}")
        raise
    if job.state == "failed":
        raise JobFailed(job.what, job.error)
    return job


def finish(opts: Options, client: Client, job: JobReply, done: str, *, background: bool) -> None:
    """Follow a job that was just started (or only say how), then print it, or `done` for people."""
    if background and job.state == "running":
        opts.data(job, lambda: Text(f"{job.what}: started as job {job.id} (vimraft job follow {job.id})"))
        return
    ended = follow(opts, client, job)
    opts.data(ended, lambda: Text(done))
