"""Errors about a user's input, in one line each: what was expected, what came, and the remedy."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from the user. The commands print its message and exit with code 2.

    >>> import jgmm
    >>> try:
    ...     jgmm.GMM.from_parameters([0.5, 0.6], [[0.0], [1.0]], [1.0, 1.0])
    ... except jgmm.InputError as error:
    ...     print(error)
    weights must sum to 1, got 1.1.
    """


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
