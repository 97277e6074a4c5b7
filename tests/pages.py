"""What the README and the pages of docs/ show, block by block, for the tests that run it."""

import hashlib
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOK = ROOT / "docs" / "in-context.ipynb"
# What stands behind a flag instead where a command would take a minute or more.
QUICKLY = {
    "--num-histories": "45", "--num-episodes": "6", "--updates": "2", "--window": "30",
    "--context": "30", "--episodes": "2", "--rollouts-per-task": "1",
}  # fmt: skip
PROGRAMS = ("fastad", "torchrun", "make", "pip", "tensorboard")


class Block(NamedTuple):
    """A block of Python, or of commands, in the order of a page."""

    kind: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, comments left out; none of a block that shows other things."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines] if self.kind == "sh" else []
        return [line for line in words if line and line[0] in PROGRAMS]


def blocks(page: Path) -> list[Block]:
    """Fenced Python and shell, and indented commands."""
    shown = re.compile(r"^```(\w*)\n(.*?)^```$|((?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
    found = []
    for match in shown.finditer(page.read_text()):
        language, fenced, indented = match.groups()
        if indented is not None:
            found.append(Block("sh", indented))
        elif language in ("python", "sh"):
            found.append(Block(language, fenced))
    return found


def commands(page: Path) -> list[list[str]]:
    """Every command of a page."""
    return [words for block in blocks(page) for words in block.commands]


def quick(words: list[str]) -> list[str]:
    """A command's words with little to do: what it shows is all the same, what it learns is not."""
    return [QUICKLY.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def digest(notebook: Any) -> str:
    """Of a notebook's code, so that a changed cell is known to have shown nothing yet."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()
