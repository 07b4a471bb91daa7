"""Commands, snippets and links out of Markdown, and how a test runs a command."""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from absl import flags

from bdf_jax.__main__ import COMMANDS
from bdf_jax.commands.configuration import read_config
from bdf_jax.method import registry
from bdf_jax.parts import leaves

ROOT = Path(__file__).parents[1]
SHELL, PYTHON, SHOWN = {"bash", "sh", "shell"}, {"python"}, {"text", "json", "yaml", "html", "bibtex", "toml"}
STARTS = re.compile(r"^(\S+=\S+ )*(\S*/)?(python3?|pip|bash|sh|srun|sbatch|gcloud|torchrun|cd|export) ")
META = set("|<>;$*`~(){}")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A command, a snippet or a link and where it stands."""

    document: str
    line: int
    text: str

    def __str__(self):
        return f"{self.document}:{self.line}: {self.text}"


def documents() -> list[str]:
    """README.md and everything in docs/, relative to the root."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def pieces(document: str) -> tuple[list[Piece], str]:
    """The code of a document in its order, each piece's language in front of a command's text, and the prose.

    Returns:
      (pieces whose text is 'bash\\n...' or 'python\\n...', the document without its fenced blocks).
    """
    found, prose, block = [], [], None
    for number, line in enumerate((ROOT / document).read_text().splitlines(), 1):
        fence = re.match(r"^\s*```(\S*)\s*$", line)
        if fence and block is None:
            block = (number, fence[1], [])
        elif fence:
            start, language, lines = block
            found.append(Piece(document, start, "\n".join([language, *lines])))
            block = None
        elif block is not None:
            block[2].append(line)
        else:
            prose.append(line)
            if line.startswith("    ") and STARTS.match(line.strip()):  # an indented block is code, too
                found.append(Piece(document, number, f"bash\n{line.strip()}"))
    assert block is None, f"{document}: the block that starts in line {block[0]} has no end"
    return found, "\n".join(prose)


def commands(block: Piece) -> list[Piece]:
    """The commands of a shell block: continued lines joined, no comments, `a && b` as two, programs without path."""
    _, _, text = block.text.partition("\n")
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    found = []
    for line in lines:
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        for command in filter(None, line.split(" && ")):
            command = re.sub(r"^\S*bin/(python3?|pip) ", r"\1 ", command.strip())
            found.append(Piece(block.document, block.line, re.sub(r"^python3 (?!-m venv)", "python ", command)))
    return found


def mentioned(prose: str) -> list[str]:
    """Commands in the running text: `python train.py --flag`."""
    return [code for code in re.findall(r"`([^`]+)`", prose) if code.startswith("python ") and "." in code]


def wrong_parts(command: str, written: Collection[str] = ()) -> list[str]:
    """Files that a command names and that neither exist nor were written, and flags that its program does not have."""
    wrong = []
    words = shlex.split(command)
    for word in words:
        for name in word.partition("=")[2].split(",") if word.startswith("--") else [word]:
            path = name.split(":")[0]
            ours = re.match(r"^(configs|benchmarks|docs|tests|notebooks|bdf_jax)/\S+|^\w+\.py$|^requirements\S*$", path)
            if ours and path not in written and not (ROOT / path).exists():
                wrong.append(f"no file {path}")
        if word.startswith("--config."):
            field = word.removeprefix("--config.").partition("=")[0]
            wrong += [] if field in fields() else [f"no field {field}"]
    program = _program(words)
    if program is None:
        return wrong
    known = known_flags(*program)
    for word in words[words.index("python") + 1 :]:
        flag = word.partition("=")[0]
        if flag.startswith("--") and not flag.startswith("--config.") and known is not None:
            spelled = {flag.replace("-", "_"), flag.replace("--no-", "--", 1).replace("-", "_")}
            wrong += [] if spelled & known else [f"no flag {flag}"]
    return wrong


@functools.cache
def fields() -> set[str]:
    """Every field that the configuration of some method has."""
    return {name for method in registry() for name in leaves(read_config(f"demo:{method}", []))}


def known_flags(script: Path, subcommand: str | None) -> set[str] | None:
    """The flags of a program of ours, with `_` for `-`; None where the subcommand is missing."""
    if subcommand is not None:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"bdf_jax.commands.{COMMANDS[subcommand][0]}").add_arguments(parser)
        return {flag.replace("-", "_") for flag in re.findall(r"--[\w-]+", parser.format_help())}
    source = script.read_text()
    if "import train_step" in source:  # a benchmark that has the flags of another
        source += (ROOT / "benchmarks/train_step.py").read_text()
    absl = re.findall(r"DEFINE_\w+\(\s*\"([\w-]+)\"", source)
    plain = re.findall(r"add_argument\(\s*\"--([\w-]+)\"", source)
    return {"__" + name.replace("-", "_") for name in [*absl, *plain, "config", "help", "helpshort"]}


def _program(words: list[str]) -> tuple[Path, str | None] | None:
    """(file, subcommand) of a Python program of this project."""
    if "python" not in words:
        return None
    rest = words[words.index("python") + 1 :]
    if rest[:1] == ["-m"] and rest[1].split(".")[0] == "bdf_jax":
        spec = importlib.util.find_spec(rest[1])
        assert spec is not None, f"no module {rest[1]}"
        folders = spec.submodule_search_locations
        file = Path(folders[0]) / "__main__.py" if folders else Path(spec.origin)
        if rest[1] != "bdf_jax":
            return file, None
        asked = rest[2] if len(rest) > 2 else ""
        assert asked in COMMANDS, f"python -m bdf_jax has no command {asked!r}; it has {', '.join(COMMANDS)}"
        return file, asked
    if rest and rest[0].endswith(".py") and (ROOT / rest[0]).exists():
        return ROOT / rest[0], Path(rest[0]).stem if rest[0] in ("train.py", "evaluate.py") else None
    return None


def run(command: str, place: Path) -> None:
    """Runs a command in a folder: a program of ours in this process, as `python` would, anything else by bash.

    Raises:
      AssertionError: an exit code other than 0.
    """
    words = shlex.split(command)
    program = None if META & set(command) else _program(words)
    if program is None or words[0] != "python":
        folders = [os.path.dirname(sys.executable), os.environ["PATH"]]
        environment = os.environ | {"PATH": os.pathsep.join(folders), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=place, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return
    arguments = words[3:] if words[1] == "-m" else words[2:]
    with _as_a_process(place, [str(program[0]), *arguments]):
        try:
            runpy.run_path(str(program[0]), run_name="__main__")
            code: object = 0
        except SystemExit as exit:
            code = exit.code
    assert code in (0, None), f"exit code {code}"


@contextlib.contextmanager
def _as_a_process(place: Path, argv: list[str]) -> Iterator[None]:
    """A command line of its own, and no flag of one program left for the next."""
    before, arguments, path = set(flags.FLAGS), sys.argv, list(sys.path)
    with contextlib.chdir(place):
        sys.argv = argv
        try:
            yield
        finally:
            sys.argv, sys.path[:] = arguments, path
            for name in set(flags.FLAGS) - before:
                module = flags.FLAGS.find_module_defining_flag(name, "")
                # Not those of libraries, which define them once: absl says where a program's overrides come from.
                if module in (argv[0], "absl.flags._flag") or module.startswith("benchmarks."):
                    delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
