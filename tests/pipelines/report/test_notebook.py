"""The notebook for data scientists, executed in a kernel of its own on a toy night: its tables are the page's."""

import re
import sys

import pytest

from components.shared.storage.paths import PROJECT
from pipelines.report.page import render

NOTEBOOK = PROJECT / "docs" / "notebooks" / "inspect_a_run.ipynb"


@pytest.fixture
def executed(make_night, tmp_path, monkeypatch):
    """The notebook after all its cells ran, and the run's page."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = make_night()
    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # A kernel of this interpreter, whatever kernels the machine has.
    kernels = tmp_path / "share" / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernels / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "p", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(book, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return book, render(folder)


def table(book, variable):
    """The cells of the table that the notebook's cell ending in `variable` shows."""
    (cell,) = [c for c in book.cells if c.cell_type == "code" and c.source.splitlines()[-1] == variable]
    shown = cell.outputs[-1]["data"]["text/html"]
    return re.findall(r"<t[dh]>(.*?)</t[dh]>", shown)


@pytest.mark.slow
def test_its_tables_are_the_pages(executed):
    book, page = executed
    scores = table(book, "scores")
    shown = re.findall(r"<td>(\d\.\d{3}) <small>\[(\d\.\d{3}), (\d\.\d{3})\]</small></td>", page)
    wanted = [f"{mean} [{low}, {high}]" for mean, low, high in shown]
    assert len(wanted) == 18 and [cell for cell in scores if "[" in cell] == wanted
    margins = [float(value) for value in re.findall(r"<td>([+-]\d\.\d{4})</td></tr>", page)]
    gates = [float(cell) for cell in table(book, "gates") if re.fullmatch(r"-?\d\.\d+(e[+-]\d+)?", cell)]
    assert [round(value, 4) for value in gates[2::3]] == margins
    assert {"no-leak"} <= set(table(book, "read"))
    assert {"srl", "evaluation", "register_bronze"} <= set(table(book, "stages"))
    printed = book.cells[1].outputs[0]["text"]
    assert "npc_dialogue-bronze version 3 is the champion" in printed


def test_it_is_kept_without_outputs():
    """Outputs are of somebody's run, and would be in every diff."""
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert all(not cell.outputs and cell.execution_count is None for cell in book.cells if cell.cell_type == "code")
