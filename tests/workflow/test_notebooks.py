"""Every notebook runs on the published results, and says what its committed outputs say."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.factories.shipped import ROOT
from tests.workflow.conftest import PATIENCE

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def texts(notebook) -> list[str]:
    """What the cells print, pictures left out."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output["data"]["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_outputs_are_current(path):
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(fresh, timeout=PATIENCE, startup_timeout=PATIENCE, resources=place).execute()
    assert texts(fresh)
    assert texts(fresh) == texts(committed)
