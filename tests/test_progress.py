"""Progress as it is read later, in a file: whole lines and nothing that redraws them."""

import io

from bdf_jax.progress import bar


def test_in_a_file_a_bar_is_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with bar(total=3, desc="images") as shown:
        shown.update(1)
        print("loss 1.0", file=stream)  # of whoever writes into the same file
        shown.update(2)
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    assert "\r" not in stream.getvalue()
    assert [line.partition("|")[0] for line in lines] == ["images:   0%", "loss 1.0", "images: 100%"]


def test_a_bar_inside_another_does_not_move_the_cursor_of_a_file(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with bar(total=2, desc="steps") as steps:
        steps.update(1)
        with bar(total=3, desc="validation", leave=False) as validation:
            validation.update(3)
        steps.update(1)
    assert "\x1b" not in stream.getvalue()
    names = [line.partition(":")[0] for line in stream.getvalue().splitlines()]
    assert names == ["steps", "validation", "steps"]


def test_in_a_terminal_a_bar_is_drawn_again(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    with bar(total=3, desc="images"):
        pass
    assert stream.getvalue().startswith("\rimages:   0%")
