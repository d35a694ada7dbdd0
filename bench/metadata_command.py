"""`bench/metadata`: vimraft's log against etcd, in the same run; see docs/benchmarks.md.

May live here: arguments and the order of parts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import metadata_cells, parts
from bench.metadata_cells import Ground
from bench.results import Result

DEFAULT_ROUNDS = 5
PARTS: dict[str, Callable[[Ground], Result]] = {
    "commits": metadata_cells.commits,
    "compaction": metadata_cells.compaction,
    "leader-kill": metadata_cells.leader_kill,
    "restart": metadata_cells.restart,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/metadata")
    parts.add_arguments(parser, list(PARTS), rounds=DEFAULT_ROUNDS)
    parser.add_argument("--etcd", type=Path, required=True, help="etcd's binary (bench/metadata gives it)")
    parser.add_argument("--outstanding", type=int, default=256, help="puts under way (%(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="leader kills (%(default)s)")
    parser.add_argument("--entries", type=int, default=100_000, help="in the log at restart (%(default)s)")
    return parts.run(PARTS, Ground, parts.parse(parser, argv, list(PARTS)))


if __name__ == "__main__":
    sys.exit(main())
