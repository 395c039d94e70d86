"""Errors in one line each: what was expected, what came, and the remedy; and the checks of every kind of argument.

A check takes the name under which its user knows the argument: "--n" on a command line, "n" in Python.
"""

import difflib
import errno
import math
import operator
from collections.abc import Iterable
from typing import Any

# What errors without a number of their own say in their text, and what it means.
SIGNS = {
    "No space left on device": "the disk is full",
    "ENOSPC": "the disk is full",
    "Input/output error": "the disk reports an input/output error",
    "File too large": "the file would be larger than is allowed",
    "Unable to initialize backend": "JAX cannot use the device that $JAX_PLATFORMS asks for",
    "RESOURCE_EXHAUSTED": "there is not enough memory",
    "Out of memory": "there is not enough memory",
    "std::bad_alloc": "there is not enough memory",
}


class InputError(ValueError):
    """Bad input from the user, or a fault around the program. The commands print its message and exit with code 2.

    >>> import jgmm
    >>> try:
    ...     jgmm.GMM.from_parameters([0.5, 0.6], [[0.0], [1.0]], [1.0, 1.0])
    ... except jgmm.InputError as error:
    ...     print(error)
    weights must sum to 1, got 1.1.
    """


class Fault(InputError):
    """A fault around the program, such as a full disk: what is done is kept, to be gone on with."""


def check(condition: object, message: str) -> None:
    """Raise `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name outside a list, with the nearest name of the list as a suggestion."""
    known = list(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Expected one of: {', '.join(known)}.")


def fault(error: BaseException) -> str | None:
    """What an error says of the system (a full disk, a missing device), in words; None if it says nothing of it."""
    if isinstance(error, InputError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return "the disk is full" if full else (error.strerror or errno.errorcode.get(error.errno, "")).lower()
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    text = str(error)
    found = next((meaning for sign, meaning in SIGNS.items() if sign in text), None)
    cause = error.__cause__
    return fault(cause) if found is None and cause is not None else found


def short(value: Any) -> str:
    """A value in a few words."""
    if not isinstance(value, type) and hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}, {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`. Raises InputError for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {short(value)}.") from None
    check(not isinstance(value, bool), f"{name} must be a whole number, got {short(value)}.")
    said = f"at least {least}" if most is None else f"from {least} to {most}"
    check(number >= least and (most is None or number <= most), f"{name} must be {said}, got {number}.")
    return number


def check_seed(name: str, value: Any) -> int:
    """A seed of random numbers. Raises InputError unless it is a whole number from 0 to below 2**32."""
    number = check_count(name, value, least=-(2**63))
    check(0 <= number < 2**32, f"{name} must be from 0 to below 2**32, got {number}.")
    return number


def check_number(
    name: str, value: Any, least: float | int = -math.inf, most: float | int = math.inf, open_ends: bool = False
) -> float:
    """A finite number from `least` to `most`, these included unless `open_ends`. Raises InputError for others."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number, got {short(value)}.") from None
    inside = least < number < most if open_ends else least <= number <= most
    check(math.isfinite(number) and inside, f"{name} must be {_interval(least, most, open_ends)}, got {short(value)}.")
    return number


def _interval(least: float | int, most: float | int, open_ends: bool) -> str:
    if math.isfinite(most):
        return f"between {least:g} and {most:g}" if open_ends else f"from {least:g} to {most:g}"
    if math.isfinite(least):
        return f"{'above' if open_ends else 'at least'} {least:g} and finite"
    return "a finite number"


def check_share(name: str, value: Any, zero: bool = True) -> float:
    """A share from 0, which `zero` includes, up to but not including 1. Raises InputError for others."""
    number = check_number(name, value)
    check(number < 1 and (number >= 0 if zero else number > 0), _not_a_share(name, number, zero))
    return number


def _not_a_share(name: str, number: float, zero: bool) -> str:
    return f"{name} must be {'from 0 up to, not including, 1' if zero else 'between 0 and 1'}, got {number:g}."
