"""What the commands share: parsing into a dataclass, and one clear line with exit code 2 for bad input."""

import contextlib
import hashlib
import io
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import tyro

import jgmm
from jgmm.errors import InputError, check

T = TypeVar("T")


def parse(options: type[T], *, prog: str, args: Sequence[str] | None = None, default: T | None = None) -> T:
    """The options of a command line; those not given are `default`'s. --version prints it and ends.

    Raises:
        InputError: For an unknown flag.
    """
    args = sys.argv[1:] if args is None else args
    show_version(args)
    fallback = tyro.MISSING_NONPROP if default is None else default
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(options, prog=prog, args=args, default=fallback)
    except SystemExit as exit:
        if exit.code != 2:  # --help
            raise
        # The parser lays its message out as a box, drawn only where the terminal can: take the text out.
        texts = [line.strip("│╰╯ ") for line in printed.getvalue().splitlines() if not line.startswith("╭")]
        raise InputError(" ".join(text for text in texts if text.strip("─-"))) from None


def show_version(args: Sequence[str]) -> None:
    """Print the version and end, if --version is among the arguments."""
    if "--version" in args:
        print(f"jgmm {jgmm.__version__}")
        sys.exit(0)


def compile_once() -> None:
    """Keep compiled programs on disk, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder, so that the next run of
    the same shapes does not compile. Each kind of processor has its own folder, for programs are not portable."""
    import jax

    config: Any = jax.config  # its options are attributes made at run time
    if config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(platformdirs.user_cache_dir("jgmm")) / _processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processor() -> str:
    """A name for the instructions that this processor has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = [line for line in lines if line.lower().startswith(("flags", "features"))][:1]
    return hashlib.sha256("".join([platform.machine(), platform.processor(), *features]).encode()).hexdigest()[:16]


def check_picture(flag: str, path: Path | None) -> None:
    """Raise InputError unless a picture can be written under this name; None is none."""
    kinds = (".png", ".jpg", ".jpeg")
    named = path is None or path.suffix.lower() in kinds
    check(named, f"{flag} expects a name ending in {', '.join(kinds)}, got {path}.")
    check_output(flag, path)


def check_output(flag: str, path: Path | None, kind: str | None = None) -> None:
    """Raise InputError unless a file can be written under this name, with the ending `kind` if given; None is none."""
    if path is None:
        return
    check(kind is None or path.suffix == kind, f"{flag} expects a name ending in {kind}, got {path}.")
    check(not path.is_dir(), f"{flag} {path}: there is a folder of that name.")
    check(path.absolute().parent.is_dir(), f"{flag} {path}: there is no folder {path.parent}. Make it first.")


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
