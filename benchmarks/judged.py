"""The table and the picture of rows that were judged, of whatever budgets:

    python benchmarks/judged.py "N(0, I), ot=benchmarks/results/study16/n-0-i-ot" [NAME=FOLDER ...] --picture FILE.png

A folder holds seed-*/evaluation, as those of python -m train.study do; a number of evaluations is shown where all seeds
were judged with it.
"""

import argparse
from pathlib import Path

from train import judging
from train.figures import quality
from train.table import Table


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    judged = {}
    for row in options.rows:
        name, _, folder = row.rpartition("=")
        judged[name] = [judging.read(place) for place in sorted(Path(folder).glob("seed-*/evaluation"))]
        if not name or not judged[name]:
            parser.error(f"expected NAME=FOLDER with seed-*/evaluation in the folder, got {row!r}")
    table = Table.over(judged)
    print("\n".join(table.lines()))
    if options.picture is not None:
        quality(options.picture, table.means, table.spreads)


if __name__ == "__main__":
    main()
