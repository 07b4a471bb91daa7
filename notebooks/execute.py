"""Runs the notebooks from top to bottom, in their order, and keeps their outputs: python notebooks/execute.py

What they write goes into `notebooks/runs`, which is not kept. `--out=DIR` runs copies there instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
NEEDED = ("bdf_jax", "configs")  # beside the folder that notebooks run in
SECONDS = 600  # for a cell
BAR = re.compile(r"\|.*\| *\d+/\d+ \[")  # of tqdm: a notebook shows it while it runs


def main() -> None:
    """Executes and writes every notebook."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="", help="folder for executed copies; default: the notebooks themselves")
    target = Path(parser.parse_args().out or HERE)
    for path, notebook in execute_all().items():
        file = target / path.name
        nbformat.write(notebook, file)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def execute_all() -> dict[Path, nbformat.NotebookNode]:
    """Each notebook with the outputs of a fresh kernel; all share one new, empty folder.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    with tempfile.TemporaryDirectory(prefix="bdf-jax-notebooks-") as temporary:
        root = Path(temporary).resolve()
        for name in NEEDED:
            (root / name).symlink_to(HERE.parent / name)
        folder = root / "notebooks"
        folder.mkdir()
        return {path: _execute(path, folder) for path in sorted(HERE.glob("*.ipynb"))}


def _execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    with _this_python(folder):
        NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = _cleaned(cell.outputs, folder)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


@contextlib.contextmanager
def _this_python(folder: Path) -> Iterator[None]:
    """A kernel named python3 that is this interpreter, whatever kernels are installed on the machine."""
    jupyter = folder.parent / "jupyter"
    kernel = jupyter / "kernels" / "python3"
    kernel.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described))
    # A profile of its own: start-up files of the user's IPython have no say in what is kept.
    settings = {"JUPYTER_PATH": str(jupyter), "IPYTHONDIR": str(jupyter / "ipython")}
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cleaned(outputs: list[nbformat.NotebookNode], folder: Path) -> list[nbformat.NotebookNode]:
    """Outputs as a reader wants them: no progress bars, one piece of text, nothing of where this folder lay."""

    def clean(text: str) -> str:
        return text.replace(f"{folder}/", "").replace(str(folder), ".")

    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            lines = [line.rsplit("\r", 1)[-1].rstrip() for line in clean(output.text).split("\n")]
            text = "\n".join(line for line in lines if not BAR.search(line))
            if not text.strip():
                continue
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += text
                continue
            output.text = text
        for kind, data in output.get("data", {}).items():
            output.data[kind] = clean(data) if isinstance(data, str) else data
        kept.append(output)
    return kept


if __name__ == "__main__":
    main()
