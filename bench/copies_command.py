"""`bench/copies`: volumes with two copies against Ceph RBD, in the same run; see docs/benchmarks.md.

May live here: arguments and the order of parts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import copies_cells, parts
from bench.copies_cells import Ground
from bench.results import Result

PARTS: dict[str, Callable[[Ground], Result]] = {
    "ceph": copies_cells.against_ceph,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/copies")
    parts.add_arguments(parser, list(PARTS), rounds=parts.DEFAULT_ROUNDS)
    parser.add_argument(
        "--ceph", type=Path, required=True, help="where Ceph's packages are unpacked (bench/copies gives it)"
    )
    return parts.run(PARTS, Ground, parts.parse(parser, argv, list(PARTS)))


if __name__ == "__main__":
    sys.exit(main())
