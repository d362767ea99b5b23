"""The notebooks run as they are, and their committed outputs are whole, small and of such a run."""

import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from refresh import NOTEBOOKS, execute, main

AGAIN = "run them again: python notebooks/refresh.py"
MOST_BYTES = 150_000
# Where a notebook was run, when, or at which address an object lay: different at every run.
PRIVATE = re.compile(r"/(work|home|root|tmp|content|Users)/|\bat 0x[0-9a-f]+|\b\d\d:\d\d:\d\d\b")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shape(cell):
    """What a cell puts out, without what may differ from run to run."""
    return [
        (output.output_type, output.get("name"), sorted(output.get("data", ())))
        for output in cell.outputs
    ]


def text_of(output):
    parts = [output.get("text", ""), *output.get("traceback", ())]
    parts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


def test_both_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["client_sweep_tpu", "quickstart"]


@pytest.mark.slow
@each
def test_runs_and_puts_out_what_is_committed(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # what is committed is of a CPU
    committed = nbformat.read(path, as_version=4)
    executed = execute(committed, tmp_path)
    for before, after in zip(code_cells(committed), code_cells(executed), strict=True):
        assert shape(after) == shape(before), f"cell {after.id} puts out something else; {AGAIN}"
    assert executed.metadata == committed.metadata
    if path.stem == "client_sweep_tpu":
        saved = (tmp_path / "runs" / "client_sweep.csv").read_text(encoding="utf-8").splitlines()
        assert saved[0].startswith("method,clients,device s/round,host s/round,clients/s,platform")
        assert [line.split(",")[:2] for line in saved[1:]] == [
            ["pfedrec", "100"],
            ["pfedrec", "1000"],
            ["pfedrec", "10000"],
            ["cgfedrec", "100"],
            ["cgfedrec", "300"],
        ]


@each
def test_committed_outputs_are_of_one_run_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), AGAIN
    kinds = {kind for cell in cells for output in cell.outputs for kind in output.get("data", ())}
    assert {"image/png", "text/html"} <= kinds
    for cell in cells:
        for output in cell.outputs:
            # Neither errors nor the standard error: warnings, progress.
            assert output.output_type != "error", AGAIN
            assert output.get("name") != "stderr", f"{cell.id}: {text_of(output)}"


@each
def test_committed_outputs_are_small_and_tell_nothing_of_the_machine(path):
    assert path.stat().st_size < MOST_BYTES
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        assert not cell.metadata
        for output in cell.outputs:
            text = text_of(output)
            assert not PRIVATE.search(text), text


def test_quickstart_recovers_the_planted_clusters():
    path = next(path for path in NOTEBOOKS if path.stem == "quickstart")
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    (output,) = cells["communities"].outputs
    recovered = float(re.search(r"^NMI +([\d.]+)$", output.text, re.MULTILINE)[1])
    shuffled = float(re.search(r"^NMI when shuffled +([\d.]+)$", output.text, re.MULTILINE)[1])
    assert shuffled < 0.2 < 0.9 < recovered <= 1


def test_without_a_checkout_the_sweep_asks_for_the_repository(tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem == "client_sweep_tpu")
    notebook = nbformat.read(path, as_version=4)
    install = next(cell for cell in code_cells(notebook) if cell.id == "install")
    # A module that is None counts as not installed.
    absent = "import sys\n\nsys.modules['fedjax_rec'] = None"
    notebook.cells = [nbformat.v4.new_code_cell(absent, id="absent"), install]
    with pytest.raises(CellExecutionError, match="set REPOSITORY to the project's git URL"):
        execute(notebook, tmp_path)


def test_refresh_names_the_notebooks_that_there_are():
    with pytest.raises(SystemExit, match=r"no notebook is named quickstrat: .* quickstart"):
        main(["quickstrat"])


def test_execute_leaves_what_it_was_given_as_it_is(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("open('made', 'w').close()\n1 + 1", id="sum")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    executed = execute(notebook, tmp_path)
    assert executed.cells[0].outputs[0].data["text/plain"] == "2"
    assert notebook.cells[0].outputs == []
    assert "language_info" not in notebook.metadata
    assert (tmp_path / "made").exists()
