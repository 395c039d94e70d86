"""What the commands share: parsing into a dataclass, and one clear line with exit code 2 for bad input."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jgmm.checks import InputError

T = TypeVar("T")


def parse(options: type[T], *, prog: str, args: Sequence[str] | None = None, default: T | None = None) -> T:
    """The options of a command line; those not given are `default`'s. Raises InputError for an unknown flag."""
    fallback = tyro.MISSING_NONPROP if default is None else default
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(options, prog=prog, args=args, default=fallback, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as exit:
        if exit.code != 2:  # --help
            raise
        # The parser lays its message out as a box, drawn only where the terminal can: take the text out.
        texts = [line.strip("│╰╯ ") for line in printed.getvalue().splitlines() if not line.startswith("╭")]
        raise InputError(" ".join(text for text in texts if text.strip("─-"))) from None


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
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
