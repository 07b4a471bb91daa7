"""Every command and snippet of the documents runs, every link leads somewhere.

What is changed or left out on the way, and why, is in `document_tables.py`.
"""

import os
import re
import shutil
import sys
import types

import document_tables
import documents
import pytest
from documents import ROOT, Piece

from bdf_jax import datasets, losses
from bdf_jax.data.world import write_world
from bdf_jax.models import resnet

DOCUMENTS = documents.documents()
TRAIN = "python train.py --config=configs/demo.py --workdir=runs/demo"


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A tiny world in every layout."""
    home = tmp_path_factory.mktemp("trees")
    return {
        layout: write_world(
            home / layout, layout=layout, train_ids=6, test_ids=3, images=2, size=(32, 16), workers=1, progress=False
        )
        for layout in ("sysu_mm01", "regdb", "llcm")
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, trees):
    """A checkout in which the README's first command has run, with its home folder beside it."""
    home = tmp_path_factory.mktemp("reader")
    place = home / "checkout"
    place.mkdir()
    for name in ("train.py", "evaluate.py", "configs", "benchmarks", "docs", "notebooks", "tests", "README.md"):
        if (ROOT / name).exists():
            (place / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        documents.run(prepared(TRAIN, trees), place)
    return home


@pytest.fixture
def place(tmp_path, trained, monkeypatch):
    """A copy of that checkout for one document."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "checkout"


@pytest.fixture
def registries():
    """A snippet may add a row of its own to these tables; the next document finds them as they were."""
    tables: list[dict] = [resnet.ARCHITECTURES, losses.PAIRS, datasets.BENCHMARKS]
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def prepared(command: str, trees) -> str:
    """The command with the replacements and additions of the tables."""
    added = [flags for pattern, flags in document_tables.ADDED if re.search(pattern, command)]
    return replaced(" ".join([command, *added]), trees)


def replaced(text: str, trees) -> str:
    """The text with what the test has in the place of what a reader has."""
    for written, used in document_tables.REPLACED:
        text = text.replace(written, used)
    for name, path in trees.items():
        text = text.replace(f"{{{name}}}", str(path))
    return text


def reason_not_to_run(command: str) -> str:
    return next((reason for pattern, reason in document_tables.NOT_RUN if re.search(pattern, command)), "")


def code(document: str, languages: set[str]) -> list[Piece]:
    return [piece for piece in documents.pieces(document)[0] if piece.text.partition("\n")[0] in languages]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_snippets_run_in_their_order(document, place, trees, registries, capfd, monkeypatch):
    namespace: dict[str, object] = document_tables.given(place, trees)
    module = types.ModuleType("snippets")  # dataclasses and pickles look for the module of what they are given
    monkeypatch.setitem(sys.modules, "snippets", module)
    module.__dict__.update(namespace)
    for piece in code(document, documents.SHELL | documents.PYTHON):
        language, _, text = piece.text.partition("\n")
        if language in documents.PYTHON:
            before = os.getcwd()
            os.chdir(place)
            try:
                exec(
                    compile(replaced(text, trees), f"{document}, snippet of line {piece.line}", "exec"), module.__dict__
                )
            finally:
                os.chdir(before)
            continue
        for command in documents.commands(piece):
            if not reason_not_to_run(command.text):
                try:
                    documents.run(prepared(command.text, trees), place)
                except Exception as error:
                    raise AssertionError(f"{command}\n{capfd.readouterr().err[-3000:]}") from error


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_name_files_and_flags_that_exist(document):
    blocks, prose = documents.pieces(document)
    listed = [command for block in code(document, documents.SHELL) for command in documents.commands(block)]
    listed += [Piece(document, 0, command) for command in documents.mentioned(prose)]
    written = re.findall(r'Path\("(.+?)"\)\.write_text', "\n".join(block.text for block in blocks))
    wrong = {str(command): documents.wrong_parts(command.text, written) for command in listed}
    assert {command: parts for command, parts in wrong.items() if parts} == {}
    languages = {block.text.partition("\n")[0] for block in blocks}
    assert languages <= documents.SHELL | documents.PYTHON | documents.SHOWN, "name the language of every block"
    for block in blocks:
        language, _, text = block.text.partition("\n")
        if language in documents.SHOWN:
            assert not any(documents.STARTS.match(line.strip()) for line in text.splitlines()), f"bash, in {block}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    _, prose = documents.pieces(document)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(target)
    assert not dead


def anchors(path) -> set[str]:
    """The headings of a Markdown file, as links name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_listed():
    seen, new = set(), {"README.md", "docs/README.md"}
    while new:
        document = new.pop()
        seen.add(document)
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", (ROOT / document).read_text()):
            path = (folder / target).resolve()
            if path.is_relative_to(ROOT) and path.exists():
                new |= {str(path.relative_to(ROOT))} - seen
    assert sorted(set(DOCUMENTS) - seen) == []


def test_no_entry_of_the_tables_is_left_over():
    said = [
        command.text for document in DOCUMENTS for block in code(document, documents.SHELL)
        for command in documents.commands(block)
    ]  # fmt: skip
    patterns = [pattern for pattern, _ in (*document_tables.NOT_RUN, *document_tables.ADDED)]
    assert [pattern for pattern in patterns if not any(re.search(pattern, text) for text in said)] == []
