"""What is wrong with a user's input, said in one line: what was expected, what came, the remedy."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from the user. The commands print its message and exit with code 2."""


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
