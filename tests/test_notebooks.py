"""The notebooks run from top to bottom, and say the same as their paired scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

OFFLINE = """
import sys

def _refuse(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        raise OSError(f"this notebook must not use the network: {arguments[1]}")

sys.addaudithook(_refuse)
"""
"""Runs before the first cell. The database is not concerned: its client library connects without Python."""

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    """The notebook as nbformat has it; a `.py` in jupytext's percent format is read as one."""
    return jupytext.read(path)  # pyright: ignore[reportUnknownVariableType] - untyped


def cells(notebook: Any) -> list[tuple[str, str]]:
    """What a reader sees of a notebook."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def kernel(folder: Path) -> AsyncKernelManager:
    """A kernel on the running interpreter, whatever else is installed under the name python3."""
    specs = KernelSpecManager(kernel_dirs=[])
    return AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=specs, connection_file=str(folder / "kernel.json")
    )


@every_notebook
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Every cell runs without an error, on a fresh database, from its own folder and without the network."""
    loaded = read(notebook)
    loaded.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
    left_behind = set(notebook.parent.iterdir())
    client = NotebookClient(
        loaded, km=kernel(tmp_path), timeout=120, resources={"metadata": {"path": str(notebook.parent)}}
    )

    client.execute(cleanup_kc=True, env=environment | {"IPYTHONDIR": str(tmp_path / "ipython")})

    assert all(cell.execution_count for cell in loaded.cells if cell.cell_type == "code")
    assert set(notebook.parent.iterdir()) == left_behind


@every_notebook
def test_a_notebook_says_the_same_as_its_script(notebook: Path) -> None:
    """The `.ipynb` holds the cells of the `.py` beside it: after an edit, `jupytext --sync notebooks/*.py`."""
    assert cells(read(notebook)) == cells(read(notebook.with_suffix(".py")))


@every_notebook
def test_a_notebook_is_stored_as_written(notebook: Path) -> None:
    """No outputs and no counters, so that a diff shows what somebody changed; and the venv's own kernel."""
    stored = read(notebook)

    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    assert stored.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in stored.cells}) == len(stored.cells)


def test_every_script_has_its_notebook() -> None:
    """No script without a notebook, and at least one of them."""
    assert [path.with_suffix(".ipynb") for path in sorted((ROOT / "notebooks").glob("*.py"))] == NOTEBOOKS
    assert NOTEBOOKS
