"""`bench/copies`: volumes with two copies against Ceph RBD, in the same run; see docs/benchmarks.md.

May live here: arguments and the order of parts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import copies_cells, parts
from bench.command import DEFAULT_ROUNDS, DEFAULT_SECONDS
from bench.copies_cells import Ground
from bench.results import Result

PARTS: dict[str, Callable[[Ground], Result]] = {
    "ceph": copies_cells.against_ceph,
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/copies")
    parts.add_arguments(parser, list(PARTS))
    parser.add_argument(
        "--ceph", type=Path, required=True, help="where Ceph's packages are unpacked (bench/copies gives it)"
    )
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, help="of each system in a round (%(default)s)"
    )
    parser.add_argument(
        "--repeat", type=int, default=DEFAULT_ROUNDS, help="rounds (%(default)s); medians are shown"
    )
    options = parser.parse_args(argv)
    parts.check_names(parser, options, list(PARTS))
    if min(options.seconds, options.repeat) <= 0:
        parser.error("numbers must be above 0")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)

    def on_ground(part: Callable[[Ground], Result], directory: Path, say: parts.Say) -> Result:
        return part(Ground(options, directory, say))

    return parts.run({name: partial(on_ground, part) for name, part in PARTS.items()}, options)


if __name__ == "__main__":
    sys.exit(main())
