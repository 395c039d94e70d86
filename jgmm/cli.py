"""What the commands share: parsing into a dataclass, and one clear line with exit code 2 for bad input."""

import io
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jgmm.checks import InputError

T = TypeVar("T")


def parse(options: type[T], *, prog: str, args: Sequence[str] | None = None, default: T | None = None) -> T:
    """The options of a command line; those not given are `default`'s. Exits with code 2 for an unknown flag."""
    fallback = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(options, prog=prog, args=args, default=fallback, config=(tyro.conf.FlagCreatePairsOff,))


def run(main: Callable[[], None]) -> None:
    """Run a command; for InputError print its message and exit with code 2, for Ctrl-C exit with 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows every line when it happens
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
