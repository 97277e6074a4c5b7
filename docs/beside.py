"""Pages and pictures beside docs/ in the repository, for the site that `make docs` builds.

A link that leads out of docs/ on a page, as GitHub wants it, leads to the same file in the site.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "kernels/README.md",
          "kernels/budgets.json", "benchmarks/results")  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Add what git knows of `BESIDE`."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *BESIDE]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in sorted(set(done.stdout.split())):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Links of pages in docs/ stay within the site, and those of pages beside it do so too."""
    if "/" not in page.file.src_uri and page.file.src_uri not in BESIDE:
        return re.sub(r"\]\(\.\./", "](", markdown)
    return re.sub(r"\]\(docs/", "](", markdown)
