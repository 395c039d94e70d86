"""What the commands share: parsing into a dataclass, and one clear line with exit code 2 for bad input."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jgmm.checks import InputError

O = TypeVar("O")  # noqa: E741


def parse(options: type[O], *, prog: str, args: Sequence[str] | None = None, default: O | None = None) -> O:
    """The options of a command line; those not given are `default`'s. Exits with code 2 for an unknown flag."""
    given = {} if default is None else {"default": default}
    return tyro.cli(options, prog=prog, args=args, config=(tyro.conf.FlagCreatePairsOff,), **given)


def run(main: Callable[[], None]) -> None:
    """Run a command; for InputError print its message and exit with code 2, for Ctrl-C exit with 130."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
