"""`bench/metadata`: vimraft's log against etcd, in the same run; see docs/benchmarks.md.

May live here: arguments and the order of parts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import metadata_cells, parts
from bench.command import DEFAULT_SECONDS
from bench.metadata_cells import Ground
from bench.results import Result

PARTS: dict[str, Callable[[Ground], Result]] = {
    "commits": metadata_cells.commits,
    "compaction": metadata_cells.compaction,
    "leader-kill": metadata_cells.leader_kill,
    "restart": metadata_cells.restart,
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/metadata")
    parts.add_arguments(parser, list(PARTS))
    parser.add_argument("--etcd", type=Path, required=True, help="etcd's binary (bench/metadata gives it)")
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, help="of each system in a round (%(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=5, help="rounds (%(default)s); medians are shown")
    parser.add_argument("--outstanding", type=int, default=256, help="puts under way (%(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="leader kills (%(default)s)")
    parser.add_argument("--entries", type=int, default=100_000, help="in the log at restart (%(default)s)")
    options = parser.parse_args(argv)
    parts.check_names(parser, options, list(PARTS))
    if min(options.seconds, options.repeat, options.outstanding, options.trials, options.entries) <= 0:
        parser.error("numbers must be above 0")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)

    def on_ground(part: Callable[[Ground], Result], directory: Path, say: parts.Say) -> Result:
        return part(Ground(options, directory, say))

    return parts.run({name: partial(on_ground, part) for name, part in PARTS.items()}, options)


if __name__ == "__main__":
    sys.exit(main())
