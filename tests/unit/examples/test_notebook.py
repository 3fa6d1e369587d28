"""The notebook runs from top to bottom, and is committed as it ran."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
NOTEBOOK = Path(__file__).parents[3] / "examples" / "quickstart.ipynb"


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def printed(notebook):
    """What each cell prints."""
    return ["".join(o.text for o in cell.outputs if o.get("name") == "stdout") for cell in code_cells(notebook)]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    committed = printed(notebook)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises on the first cell that does
    for now, before in zip(printed(notebook), committed, strict=True):
        assert NUMBER.sub("", now) == NUMBER.sub("", before)
        # Another CPU may round otherwise; another model would print other numbers.
        assert [*map(float, NUMBER.findall(now))] == pytest.approx([*map(float, NUMBER.findall(before))], abs=1)
    assert sum("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs) == 2


def test_the_notebook_is_committed_as_it_ran():
    cells = code_cells(nbformat.read(NOTEBOOK, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
