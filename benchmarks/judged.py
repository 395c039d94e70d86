"""Tables and a picture of rows that were judged, of whatever budgets:

    python benchmarks/judged.py "N(0, I), ot=benchmarks/results/study16/n-0-i-ot" [NAME=FOLDER ...] --picture FILE.png

A folder holds seed-*/evaluation, as those of python -m train.study do; a number of evaluations is shown where all seeds
were judged with it. Prints means and standard deviations over the seeds.
"""

import argparse
from pathlib import Path
from statistics import fmean, stdev

from train import judging
from train.figures import SHOWN, quality
from train.table import over

Rows = dict[str, dict[str, float]]


def seeds_of(folder: Path) -> list[Rows]:
    """What was judged, a seed after the other, without what not all of them have."""
    found = [judging.read(place).rows for place in sorted(folder.glob("seed-*/evaluation"))]
    return [{name: one[name] for name in one if all(name in other for other in found)} for one in found]


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    judged = {name: seeds_of(Path(folder)) for name, _, folder in (row.partition("=") for row in options.rows)}
    means = {name: over(seeds, fmean) for name, seeds in judged.items()}
    spreads = {name: over(seeds, lambda x: stdev(x) if len(x) > 1 else 0.0) for name, seeds in judged.items()}
    columns = sorted({row for rows in means.values() for row in rows if row.isdigit()}, key=int)
    for metric in SHOWN:
        print(f"**{metric}**\n\n| | seeds | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
        for name, rows in means.items():
            cells = [f"{rows[c][metric]:.4g} ± {spreads[name][c][metric]:.2g}" if c in rows else "" for c in columns]
            print(f"| {name} | {len(judged[name])} | {' | '.join(cells)} |".replace(" ± 0 ", " "))
        print()
    if options.picture is not None:
        quality(options.picture, means, spreads)


if __name__ == "__main__":
    main()
