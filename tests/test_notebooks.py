"""The notebooks run from top to bottom, and what is kept of their outputs is what they print: small, and nobody's."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 300_000  # bytes
SOMEONES = re.compile(r"/(tmp|home|root|work|Users|var|opt)/|site-packages|\.cache")  # paths of a machine


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell puts out: 'stdout', or the kinds of a displayed object."""
    return [output.get("name") or tuple(sorted(output.get("data", [output.output_type]))) for output in cell.outputs]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All of them, run in their order by a fresh kernel of this Python in an empty folder."""
    out = tmp_path_factory.mktemp("notebooks")
    command = [sys.executable, str(ROOT / "notebooks" / "execute.py"), f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.name: nbformat.read(out / path.name, as_version=4) for path in NOTEBOOKS}


def test_there_are_four():
    assert [path.stem for path in NOTEBOOKS] == [
        "1_quick_tour", "2_loading_a_checkpoint", "3_a_loss_of_edges", "4_pytorch_features"
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_puts_out_what_is_kept(executed, path):
    kept, now = nbformat.read(path, as_version=4), executed[path.name]
    assert [cell.source for cell in now.cells] == [cell.source for cell in kept.cells]
    for then, cell in zip(code_cells(kept), code_cells(now), strict=True):
        assert kinds(cell) == kinds(then), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_whole_small_and_of_no_machine(path):
    assert path.stat().st_size < LARGEST
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    cells = code_cells(kept)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = "\n".join(str(output) for cell in cells for output in cell.outputs)
    assert not SOMEONES.search(re.sub(r"base64,[A-Za-z0-9+/=]*", "", text))
    assert str(ROOT) not in text
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for c in cells for output in c.outputs
    )


@pytest.mark.long
def test_the_tour_shows_pictures(executed):
    shown = [str(output.get("data", {}).get("text/html", "")) for c in code_cells(executed["1_quick_tour.ipynb"])
             for output in c.outputs]  # fmt: skip
    assert sum(html.count("<img ") for html in shown) == 20 + 20 + 12 + 4 * 9


def test_they_run_alone_on_any_python():
    """They import nothing that is not installed with this project, and name Python as any kernel does."""
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert notebook.metadata.kernelspec.name == "python3"
        imported = set(re.findall(r"^(?:from|import) (\w+)", "\n".join(c.source for c in code_cells(notebook)), re.M))
        assert imported <= {"bdf_jax", "configs", "jax", "numpy", "optax", "pathlib", "sys"}
