"""`python -m torture [PART ...] [--seed S] [--size F]`: every part, or those named; ends with one table."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import disk
from trial import HEADER, Part, import_everything

# A part by its name: the module and the function in it. The longest come first, so that all cores end together.
PARTS = {
    "damage": ("faults", "damage"),
    "writes": ("faults", "writes"),
    "options": ("options", "run"),
    "kills": ("kills", "run"),
    "reads": ("faults", "reads"),
    "writers": ("writers", "run"),
    "fits": ("fits", "run"),
    "arguments": ("arguments", "run"),
}
ON_A_DISK_THAT_FAILS = ("writes", "reads")


def main() -> int:
    """Run the parts, as many at a time as there are cores; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"some of {', '.join(PARTS)}; all, unless some are named")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument("--size", type=float, default=1.0, help="the share of the trials to make")
    parser.add_argument("--table", type=Path, help="where to write the rows as JSON")
    given = parser.parse_args()
    strange = [name for name in given.part if name not in PARTS]
    if strange:
        parser.error(f"no part {strange[0]}: there are {', '.join(PARTS)}")
    names = given.part or list(PARTS)
    rows = _one(names[0], given) if len(names) == 1 else _several(names, given)
    if given.table:
        given.table.write_text(json.dumps([asdict(row) for row in rows]))
    print("\n".join(["", HEADER, *map(str, rows)]))
    return int(any(row.failures for row in rows))


def _one(name: str, given: argparse.Namespace) -> list[Part]:
    if name in ON_A_DISK_THAT_FAILS:
        disk.preload()
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        folder = Path(place)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        import_everything()
        begun = time.monotonic()
        print(f"{name}: seed {given.seed}, size {given.size}", flush=True)
        module, function = PARTS[name]
        rows = getattr(importlib.import_module(module), function)(given.seed, folder / name, given.size)
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return rows


def _several(names: list[str], given: argparse.Namespace) -> list[Part]:
    with tempfile.TemporaryDirectory(prefix="torture-tables-") as place:

        def alone(name: str) -> list[Part]:
            table = Path(place) / name
            words = [name, "--seed", given.seed, "--size", given.size, "--table", table]
            subprocess.run([sys.executable, "-m", "torture", *map(str, words)])
            if not table.exists():
                return [Part(name, 1, 0, 0, ["the part did not end"])]
            return [Part(**row) for row in json.loads(table.read_text())]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [row for rows in pool.map(alone, names) for row in rows]


if __name__ == "__main__":
    sys.exit(main())
