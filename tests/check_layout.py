"""What the layout promises and no linter knows: run by `make lint`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LINES = 350


def problems() -> list[str]:
    """Every broken promise, in one line each."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = []
    for name in sorted(set(listed.stdout.split())):
        if not (ROOT / name).exists():
            continue
        lines = (ROOT / name).read_text().count("\n")
        if lines > MAX_LINES:
            found.append(f"{name} has {lines} lines; at most {MAX_LINES}")
    if (ROOT / "kernels" / "__init__.py").exists():
        found.append("kernels/__init__.py exists; it would shadow Hugging Face's kernels package")
    return found


if __name__ == "__main__":
    for problem in problems():
        print(problem)
    sys.exit(bool(problems()))
