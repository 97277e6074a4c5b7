"""Examples of docstrings as blocks of code, for the site that `make docs` builds."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"(?:^>>> .*\n(?:(?!>>>|\s*$).*\n?)*)+", re.MULTILINE)


class Doctests(Extension):
    """Fences `>>>` lines and what they print: Markdown would take brackets for links."""

    def on_object(self, *, obj: Object, **others: Any) -> None:
        """Change the docstring of one object before it is parsed."""
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            text = obj.docstring.value + "\n"
            fenced = EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
            obj.docstring.value = fenced.rstrip()
