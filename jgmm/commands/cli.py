"""What the commands share: parsing into a dataclass, and one clear line with exit code 2 for bad input."""

import contextlib
import hashlib
import io
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import tyro

import jgmm
from jgmm.checkpoint.files import check_encodable
from jgmm.errors import InputError, check, fault

T = TypeVar("T")


def parse(options: type[T], *, prog: str, args: Sequence[str] | None = None, default: T | None = None) -> T:
    """The options of a command line; those not given are `default`'s. --version prints it and ends.

    Raises:
        InputError: For an unknown flag.
    """
    args = sys.argv[1:] if args is None else args
    show_version(args)
    for before, arg in zip(["", *args], args, strict=False):
        check(arg != "", f"{before or 'the first argument'} is followed by an empty value.")
        check_encodable(before or "the first argument", arg)
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
    the same shapes does not compile. Each kind of processor has its own folder, for programs are not portable.

    Raises:
        InputError: If JAX cannot use its device.
    """
    import jax

    from jgmm.numerics.devices import default_device

    config: Any = jax.config  # its options are attributes made at run time
    if config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(platformdirs.user_cache_dir("jgmm")) / _processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small ones are many
    default_device()


def _processor() -> str:
    """A name for the instructions that this processor has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = [line for line in lines if line.lower().startswith(("flags", "features"))][:1]
    return hashlib.sha256("".join([platform.machine(), platform.processor(), *features]).encode()).hexdigest()[:16]


def run(main: Callable[[], None]) -> None:
    """Run a command. For InputError, and for a fault of the system (a full disk, a missing device), print one
    line and exit with code 2; for Ctrl-C exit with 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A log file shows every line when it happens; what its encoding does not have is spelled out.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.unraisablehook = _but_for_those_given_up
    for name in ("absl", "asyncio"):  # orbax's threads log, with tracebacks, what it raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        main()
    except InputError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        said = fault(error)
        if said is None:
            raise
        named = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        _refuse(f"{named}{said}.")


def _but_for_those_given_up(unraisable: Any) -> None:
    """Print an error that nobody could catch, but none of the reads and writes that orbax has given up because another
    one failed, which it has raised: each of them says so, in a thread of its own or when it is thrown away."""
    code = getattr(unraisable.object, "cr_code", None)
    thrown_away = code is not None and "orbax" in code.co_filename
    closed = unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"
    if not (thrown_away or closed):
        sys.__unraisablehook__(unraisable)


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
