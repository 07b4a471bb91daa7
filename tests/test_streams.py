"""What becomes of a command whose standard streams have no reader, no space, no letters, or are not there."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = """
import contextlib, os, sys, time
from bdf_jax.progress import bar
from bdf_jax.process import run_command

def work():
    print("begins", flush=True)
    os.set_blocking(1, "NON_BLOCKING" not in os.environ)
    while os.path.exists("wait"):
        time.sleep(0.01)
    for number in bar(iterable=range(1000), mininterval=0):
        print("90 ± 1 %", 50 * chr(0x4EBA), flush=True)
    with open("result", "w") as file:  # closed descriptors would have their numbers reused
        for number in (1, 2):
            with contextlib.suppress(OSError):
                os.write(number, b"from native code")
        file.write("whole")
    return int(sys.argv[1])

sys.exit(run_command(work))
"""


def start(folder, redirections="", code=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options):
    """The command in a shell, so that streams can be closed as a shell does."""
    line = f"exec {sys.executable} -c '{COMMAND}' {code} {redirections}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), **options}
    return subprocess.Popen(["sh", "-c", line], cwd=folder, env=environment, stdout=stdout, stderr=stderr, text=True)


def result(folder):
    return (folder / "result").read_text()


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_changes_neither_the_work_nor_its_exit_code(tmp_path, code, unbuffered):
    (tmp_path / "wait").touch()
    with start(tmp_path, code=code, PYTHONUNBUFFERED=unbuffered) as process:
        assert process.stdout.readline() == "begins\n"
        process.stdout.close()
        (tmp_path / "wait").unlink()
        error = process.stderr.read()
    assert process.returncode == code, error
    assert "Error" not in error
    assert result(tmp_path) == "whole"


def test_a_reader_of_both_streams_that_went_away_changes_nothing_either(tmp_path):
    (tmp_path / "wait").touch()
    with start(tmp_path, "2>&1") as process:
        process.stdout.readline()
        process.stdout.close()
        (tmp_path / "wait").unlink()
    assert process.returncode == 0
    assert result(tmp_path) == "whole"


def test_a_terminal_that_went_away_changes_nothing(tmp_path):
    ours, theirs = pty.openpty()
    (tmp_path / "wait").touch()
    with start(tmp_path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 6) == b"begins"
        os.close(ours)
        (tmp_path / "wait").unlink()
    assert process.returncode == 0
    assert result(tmp_path) == "whole"


def test_a_signal_that_nobody_reads_of_ends_with_its_code_all_the_same(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from bdf_jax.training.preemption import preemptible\n"
        "with preemptible():\n"
        "    print('begins', flush=True); sys.stdin.read(); os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        process.stdout.readline()
        process.stderr.close()
        process.stdin.close()
    assert process.returncode == 75


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_change_nothing(tmp_path, closed):
    with start(tmp_path, closed) as process:
        output, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "Error" not in error
    assert (">&- " in closed or closed == ">&-") == (output == "")
    assert result(tmp_path) == "whole", "nothing of another stream is in it"


def test_a_full_disk_behind_the_output_does_not_stop_the_work_and_is_told_at_its_end(tmp_path):
    with start(tmp_path, ">/dev/full") as process:
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "error: standard output: No space left on device: what was printed is lost" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert result(tmp_path) == "whole"


def test_a_full_disk_behind_the_messages_changes_nothing(tmp_path):
    with start(tmp_path, "2>/dev/full") as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert output.count("90 ± 1 %") == 1000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_what_an_encoding_lacks_is_written_as_its_number(tmp_path, encoding):
    with start(tmp_path, PYTHONIOENCODING=encoding) as process:
        output = process.stdout.buffer.read()
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert output.count(rb"\u4eba") == 50_000
    assert result(tmp_path) == "whole"


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(tmp_path):
    with start(tmp_path, "2>/dev/null", NON_BLOCKING="1") as process:
        time.sleep(1)  # until it is full
        output = process.communicate(timeout=60)[0]
    assert output.count("90 ± 1 %") == 1000


def test_a_bar_in_a_program_without_an_error_stream_is_not_drawn(monkeypatch):
    from bdf_jax.progress import bar

    monkeypatch.setattr(sys, "stderr", None)
    assert list(bar(iterable=range(3))) == [0, 1, 2]
