"""HTML in which nothing is left unescaped: whatever is not `Html` is text."""

from __future__ import annotations

import json
from html import escape
from typing import Any

VOID = {"input", "meta", "br", "circle", "rect", "line", "path", "polyline"}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element; its children are text unless they are `Html`, and its attributes are escaped.

    Args:
        name: Of the element.
        *children: `Html`, or anything whose text shall be shown; None is left out.
        **attributes: `class_` is class, `data_run` is data-run; True has no value, None and False
            are left out.
    """
    told = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID and not children:
        return Html(f"<{name}{told}/>")
    return Html(f"<{name}{told}>{joined(*children)}</{name}>")


def joined(*children: Any) -> Html:
    """Elements and texts one after the other."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(str(child))
            for child in children
            if child is not None
        )
    )


def as_script(value: Any) -> Html:
    """JSON that may stand within a <script>: nothing in it ends the element or a line of it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII, so no U+2028
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Html(text)


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-") if name != "viewBox" else name
