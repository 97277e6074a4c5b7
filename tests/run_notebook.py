"""Run the notebook of docs/ in an empty folder, and keep what its cells show: `make notebook`."""

import tempfile

import nbformat
from nbclient import NotebookClient

from tests.pages import NOTEBOOK, digest


def main() -> None:
    """Without times and versions, so that a second run changes figures alone."""
    notebook = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)
    notebook.metadata["ran"] = digest(notebook)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
