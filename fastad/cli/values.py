"""What the words behind a flag are worth: values of a field's type."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from fastad.base.errors import UserError, unknown

KINDS = {int: "a whole number, such as 3", float: "a number, such as 0.5"}


def convert(field: str, hint: Any, words: list[str]) -> Any:
    """The value of a field.

    Args:
        field: Its name, for errors.
        hint: Its type: bool, int, float, str, Path, a Literal of words, a tuple of these, or one
            of these and None.
        words: What was typed behind the flag.

    Raises:
        UserError: If the words are no such value.
    """
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(words)
        return tuple(_one(field, kind, word) for kind, word in zip(kinds, words, strict=True))
    (word,) = words
    return _one(field, hint, word)


def _one(field: str, hint: Any, word: str) -> Any:
    if get_origin(hint) is UnionType:
        kinds = get_args(hint)
        if NoneType in kinds and word.lower() == "none":
            return None
        (hint,) = (kind for kind in kinds if kind is not NoneType)
    if get_origin(hint) is Literal:
        if word not in get_args(hint):
            raise unknown(field, word, get_args(hint))
        return word
    if hint in KINDS:
        try:
            return hint(word)
        except ValueError:
            raise UserError(f"{field}={word!r} is not {KINDS[hint]}") from None
    assert hint in (str, Path), f"{field} has a type that no word can have: {hint}"
    return hint(word)
