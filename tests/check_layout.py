"""What the layout promises and no linter knows: run by `make lint`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LINES = 350
MAX_LOOSE = 10  # entries at the top of the package that are no folders
OTHER_TESTS = {"faults", "fuzz", "kernels"}  # of the whole program, and of the other library


def problems() -> list[str]:
    """Every broken promise, in one line each."""
    found = []
    for name in listed("*.py"):
        lines = (ROOT / name).read_text().count("\n")
        if lines > MAX_LINES:
            found.append(f"{name} has {lines} lines; at most {MAX_LINES}")
    loose = [name for name in listed("fastad") if name.count("/") == 1]
    if len(loose) > MAX_LOOSE:
        found.append(f"fastad has {len(loose)} entries that are no folders; at most {MAX_LOOSE}")
    mirrored = {name.split("/")[1] for name in listed("fastad") if name.count("/") > 1}
    folders = {name.split("/")[1] for name in listed("tests") if name.count("/") > 1}
    found += [
        f"tests/{folder} mirrors no folder of fastad"
        for folder in sorted(folders - mirrored - OTHER_TESTS)
    ]
    if (ROOT / "kernels" / "__init__.py").exists():
        found.append("kernels/__init__.py exists; it would shadow Hugging Face's kernels package")
    return found


def listed(pattern: str) -> list[str]:
    """Files that git knows, or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in set(done.stdout.split()) if (ROOT / name).exists())


if __name__ == "__main__":
    for problem in problems():
        print(problem)
    sys.exit(bool(problems()))
