"""Errors that a user can put right: the field, the value and the fix in one line."""

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 12


class UserError(ValueError):
    """Something the user asked for cannot be done; the message names field, value and fix."""


class CheckFailedError(RuntimeError):
    """Something ran to its end and was found wrong; exit code 1."""


def unknown(field: str, value: object, choices: Iterable[str]) -> UserError:
    """Build the error for a name that is not one of `choices`, with the nearest valid one.

    Args:
        field: What was being chosen, e.g. "env".
        value: What the user wrote.
        choices: Every valid name.
    """
    names = sorted(choices)
    near = get_close_matches(str(value), names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else ""
    # A long list would bury the likely answer.
    if not near or len(names) <= FEW:
        hint = f"{hint} choose one of: {', '.join(names)}".strip()
    return UserError(f"unknown {field} {str(value)!r}; {hint}")
