"""The words of a command line: flags with their values, and bare words, in any order.

No word is guessed at. A switch takes no value, a flag of one value the word after it, a flag of
options the KEY=VALUE words after it; what is left are bare words.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

from fastad.base.errors import UserError, unknown

# How many words a flag takes; "pairs": every KEY=VALUE that follows; "words": every bare word.
Takes = int | Literal["pairs", "words"]

PAIR = r"[A-Za-z_]\w*=.*"
TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")  # what a switch does not take


def sort_words(
    name: str, words: Sequence[str], takes: Mapping[str, Takes]
) -> tuple[dict[str, list[str]], list[str]]:
    """Sort what was typed behind a command's name.

    Args:
        name: The command's.
        words: As the shell gave them.
        takes: Every flag, with its dashes, and what it takes.

    Returns:
        The values of each flag that was given, and the bare words. A flag given twice has its last
        value, as is usual; KEY=VALUE words add up.

    Raises:
        UserError: For a flag that does not exist, or one that is not followed by what it takes.
    """
    given: dict[str, list[str]] = {}
    bare: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word == "--":
            bare += rest
            break
        if not is_flag(word):
            bare.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = "--help" if flag == "-h" else flag.replace("_", "-")
        if flag not in takes:
            raise unknown(f"option of fastad {name}:", flag, takes)
        values = _values(flag, takes[flag], [value] if equals else [], rest)
        earlier = given.pop(flag, [])
        given[flag] = earlier + values if takes[flag] == "pairs" else values
    return given, bare


def is_flag(word: str) -> bool:
    """Whether a word begins an option; a negative number does not."""
    return len(word) > 1 and word.startswith("-") and not _is_number(word)


def _values(flag: str, takes: Takes, values: list[str], rest: deque[str]) -> list[str]:
    """The values of a flag: what stood behind its "=", if anything, and what it takes of `rest`."""
    if takes == 0:
        _check_switch(flag, [*values, *list(rest)[:1]], has_value=bool(values))
    elif takes == "pairs":
        while rest and re.fullmatch(PAIR, rest[0], re.DOTALL):
            values.append(rest.popleft())
        if not values:
            wrong = f"{rest[0]!r} is" if rest and not is_flag(rest[0]) else "what follows is"
            raise UserError(f"{flag}: {wrong} not of the form KEY=VALUE, such as size=11")
    else:
        while rest and not is_flag(rest[0]) and (takes == "words" or len(values) < takes):
            values.append(rest.popleft())
        if takes != "words" and len(values) < takes:
            what = "a value" if takes == 1 else f"{takes} values"
            hint = f"; one that begins with a dash is written {flag}=VALUE" if rest else ""
            raise UserError(f"{flag} needs {what}{hint}")
    return values


def _check_switch(flag: str, following: list[str], *, has_value: bool) -> None:
    """Refuse a value for a switch, "=" or not: it would be taken for a bare word."""
    if has_value or (following and following[0].lower() in TRUTHS):
        name = flag.removeprefix("--").removeprefix("no-")
        raise UserError(
            f"{flag} takes no value, and {following[0]!r} follows it; write --{name} for yes or "
            f"--no-{name} for no, alone"
        )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
