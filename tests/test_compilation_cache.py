"""Compiled programs are kept in a folder that nobody else can write, or not at all; and never stand in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bdf_jax import compilation_cache
from bdf_jax.compilation_cache import machine, use_compilation_cache

# Two programs, their results, and how many of them came out of the cache.
PROGRAM = """if True:
    import resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    from bdf_jax.compilation_cache import use_compilation_cache
    print(use_compilation_cache())
    assert "jax" not in sys.modules
    import jax, numpy as np
    hits = []
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
    def first(x):
        return jax.numpy.sin(x) @ x.T
    def second(x):
        return jax.nn.softmax(x * x.sum(0))
    x = np.linspace(-3, 3, 400, dtype=np.float32).reshape(20, 20)
    for function in (first, second):
        print(np.asarray(jax.jit(function)(x)).tobytes().hex())
    print(len(hits), "hits")
"""


def environment(home: Path, **changes: str) -> dict[str, str]:
    """As a user has it: nothing of what the tests set."""
    mine = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    return {**mine, "XDG_CACHE_HOME": str(home), **changes}


def start(home: Path, limit: int = 1 << 40, **changes: str) -> tuple[list[str], str]:
    """Lines of the program and its error stream; a file-size limit of the process stands in for a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(limit)],
        env=environment(home, **changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


def folder_in(home: Path) -> Path:
    return home / "bdf_jax" / "compiled" / machine()


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> tuple[Path, list[str]]:
    """A home whose cache holds the programs, and what they gave when they were compiled."""
    home = tmp_path_factory.mktemp("home")
    lines, errors = start(home)
    assert lines[0] == str(folder_in(home))
    assert lines[-1] == "0 hits"
    assert errors == ""
    return home, lines


@pytest.fixture
def clean(monkeypatch, tmp_path) -> Path:
    """This process as a user has it, and the home of its cache; what is set is undone."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(compilation_cache.warnings, "showwarning", compilation_cache.warnings.showwarning)
    monkeypatch.setattr(compilation_cache, "_configure", lambda name, value: None)
    return tmp_path / "home"


def test_a_second_process_loads_every_program_and_gets_the_same_bits(filled):
    home, compiled = filled
    lines, errors = start(home)
    assert lines[-1] == "2 hits"
    assert lines[:-1] == compiled[:-1]
    assert errors == ""  # XLA has nothing to say about programs of this machine


def test_switched_off_it_gives_the_same_bits_and_makes_no_folder(filled, tmp_path):
    lines, errors = start(tmp_path, JAX_ENABLE_COMPILATION_CACHE="0")
    assert (lines[0], lines[-1], errors) == ("None", "0 hits", "")
    assert lines[1:-1] == filled[1][1:-1]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_own_is_used_instead(tmp_path):
    own = tmp_path / "own"
    changes = {"JAX_COMPILATION_CACHE_DIR": str(own), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert start(tmp_path / "home", **changes)[0][0] == "None"
    assert start(tmp_path / "home", **changes)[0][-1] == "2 hits"
    assert not (tmp_path / "home").exists()


def test_only_the_user_can_enter_the_folder(filled):
    folder = folder_in(filled[0])
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o700


def test_only_an_absolute_xdg_folder_counts(clean, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert use_compilation_cache() == tmp_path / ".cache" / "bdf_jax" / "compiled" / machine()


@pytest.mark.parametrize("part", ["compiled", "machine"])
def test_a_folder_that_others_can_write_is_not_used(clean, capsys, part):
    folder = use_compilation_cache()
    assert folder == folder_in(clean)
    wide = folder if part == "machine" else folder.parent
    wide.chmod(0o770)
    assert use_compilation_cache() is None
    assert "can be written by others (mode 770)" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(clean, capsys):
    folder = use_compilation_cache()
    assert folder is not None
    os.chown(folder, 12345, 12345)
    assert use_compilation_cache() is None
    assert "belongs to another user (12345)" in capsys.readouterr().err


def test_a_link_is_not_followed(clean, capsys, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder = folder_in(clean)
    folder.parent.mkdir(parents=True, mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert use_compilation_cache() is None
    assert "is a link" in capsys.readouterr().err


def test_a_folder_that_everybody_can_replace_is_not_used(clean, capsys):
    clean.mkdir()
    clean.chmod(0o777)
    assert use_compilation_cache() is None
    assert f"lies in {clean}, where every user can replace it" in capsys.readouterr().err
    clean.chmod(0o1777)  # as /tmp: everybody can write, nobody can replace
    assert use_compilation_cache() == folder_in(clean)


def test_where_no_folder_can_be_made_programs_are_compiled(filled, tmp_path):
    (tmp_path / "file").write_text("in the way")
    lines, errors = start(tmp_path / "file")
    assert (lines[0], lines[-1]) == ("None", "0 hits")
    assert lines[1:-1] == filled[1][1:-1]
    assert errors.count("compilation cache:") == 1
    assert "cannot be written: Not a directory" in errors
    assert "JAX_ENABLE_COMPILATION_CACHE=0" in errors


def test_a_full_disk_is_told_once_and_leaves_nothing_half_written(filled, tmp_path):
    lines, errors = start(tmp_path, limit=100)
    assert lines[1:] == filled[1][1:]
    assert errors.count("compilation cache:") == 1
    assert "error writing it: OSError: [Errno 27] File too large" in errors
    assert "Traceback" not in errors
    assert list(folder_in(tmp_path).iterdir()) == []
    start(tmp_path)
    assert {entry.name.split("-")[0] for entry in folder_in(tmp_path).iterdir()} == {"jit_first", "jit_second"}


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[::-1]])
def test_a_damaged_entry_is_told_removed_and_written_again(filled, damage):
    home, compiled = filled
    (entry,) = folder_in(home).glob("jit_first-*")
    entry.write_bytes(damage(entry.read_bytes()))
    lines, errors = start(home)
    assert lines[1:-1] == compiled[1:-1]
    assert lines[-1] == "1 hits"
    assert errors.count("compilation cache:") == 1
    assert "jit_first: error reading it" in errors
    assert start(home)[0][-1] == "2 hits"


def test_what_is_used_least_is_removed_first(clean, monkeypatch):
    folder = use_compilation_cache()
    assert folder is not None
    for age in range(4):
        path = folder / f"jit_{age}-cache"
        path.write_bytes(bytes(1000))
        os.utime(path, (time.time() - age * 1e6,) * 2)
    monkeypatch.setattr(compilation_cache, "LIMIT_BYTES", 2500)
    use_compilation_cache()
    assert {path.name for path in folder.iterdir()} == {"jit_0-cache", "jit_1-cache"}


def test_other_warnings_are_shown_as_before(tmp_path):
    script = (
        "from bdf_jax.compilation_cache import use_compilation_cache; use_compilation_cache()\n"
        "import warnings; warnings.warn('something else')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert "<string>:2: UserWarning: something else" in done.stderr


def test_commands_use_it(tmp_path):
    """A wrong configuration ends the command before JAX is imported, but after the cache was chosen."""
    for command in (["train.py", "--config=nowhere.py", "--workdir=runs/x"], ["evaluate.py"]):
        home = tmp_path / command[0]
        done = subprocess.run(
            [sys.executable, *command],
            env=environment(home), capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert folder_in(home).is_dir()
