"""What docstrings say of classes and their options: help and lists are made of it."""

import inspect
import textwrap
from typing import Any

WIDTH = 100


def field_texts(kind: type[Any]) -> dict[str, str]:
    """What stands below each field of a dataclass, inherited ones included, on one line."""
    import docstring_parser

    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__[:-1]):
        found = docstring_parser.parse_from_object(parent).params
        texts |= {p.arg_name: _on_one_line(p.description) for p in found}
    return texts


def argument_texts(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each argument, on one line."""
    import docstring_parser

    found = docstring_parser.parse(inspect.getdoc(kind) or "").params
    return {p.arg_name: _on_one_line(p.description) for p in found}


def summary(kind: Any) -> str:
    """The first sentence of a docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def paragraphs(kind: type[Any]) -> str:
    """A docstring up to its arguments, its lines filled anew."""
    text = (inspect.getdoc(kind) or "").partition("\n\nArgs:")[0]
    return "\n\n".join(
        textwrap.fill(part, WIDTH, break_on_hyphens=False) for part in text.split("\n\n")
    )


def rows(entries: dict[str, str]) -> str:
    """Names and what is said of each, in two columns."""
    if not entries:
        return "  none"
    width = max(map(len, entries)) + 4
    return "\n".join(
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=f"  {name}".ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        or f"  {name}"
        for name, text in entries.items()
    )


def _on_one_line(text: str | None) -> str:
    return " ".join((text or "").split())
