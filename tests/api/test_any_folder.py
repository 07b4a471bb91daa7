"""The images of any folder, whatever else lies in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bdf_jax.api.folders import list_images
from bdf_jax.errors import BdfError
from bdf_jax.names import printable

ROOT = Path(__file__).parents[2]


def make(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass


def test_images_of_all_folders_sorted_without_what_is_hidden_or_no_image(tmp_path):
    make(
        tmp_path, "b/2.PNG", "b/1.jpeg", "a.tif", "c/d/e.webp", "notes.txt", ".hidden.jpg", ".git/x.jpg", "jpg", "z.gif"
    )
    make(tmp_path, "album.jpg/inside.jpg")
    expected = ["a.tif", "album.jpg/inside.jpg", "b/1.jpeg", "b/2.PNG", "c/d/e.webp", "z.gif"]
    assert list_images(str(tmp_path)) == expected
    assert list_images(str(tmp_path) + "/") == expected


def test_links_are_followed_once_and_loops_end(tmp_path):
    make(tmp_path, "outside/1.jpg", "folder/real/2.jpg", "neighbour.jpg")
    folder = tmp_path / "folder"
    (folder / "link.jpg").symlink_to(tmp_path / "outside" / "1.jpg")
    (folder / "a_link").symlink_to(folder / "real")  # read by its own name
    (folder / "b_link").symlink_to(tmp_path / "outside")
    (folder / "c_link").symlink_to(tmp_path / "outside")  # read once
    (folder / "self").symlink_to(folder)
    (folder / "real" / "up").symlink_to("..")
    (folder / "parent").symlink_to(tmp_path)  # its other images were not asked for
    (folder / "loop").symlink_to("loop")
    assert list_images(str(folder)) == ["b_link/1.jpg", "link.jpg", "real/2.jpg"]


def test_names_of_any_bytes_are_listed_and_shown_on_one_line(tmp_path):
    names = [b"new\nline.jpg", b"latin-\xe9.jpg", "größe.jpg".encode(), b"<b>.jpg", b"\x1b[31m.jpg"]
    for name in names:
        make(tmp_path, name)
    found = list_images(str(tmp_path))
    assert sorted(map(os.fsencode, found)) == sorted(names)
    shown = [printable(name) for name in found]
    assert sorted(shown) == sorted(["new\\nline.jpg", "latin-\\udce9.jpg", "größe.jpg", "<b>.jpg", "\\x1b[31m.jpg"])
    assert all(name.encode() for name in shown)


def test_a_folder_without_images_is_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BdfError, match=r"empty: expected a folder with images .*, found no file"):
        list_images(str(tmp_path / "empty"))
    make(tmp_path, "a.txt", "b.csv")
    with pytest.raises(BdfError, match="found 2 other files"):
        list_images(str(tmp_path))


def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    """In a process of another user where this one may read everything."""
    make(tmp_path, "open/1.jpg", "shut/2.jpg")
    (tmp_path / "shut").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(folder.stat().st_mode | 0o055)  # the other user has to get this far
    script = (
        "import os, sys\n"
        "from bdf_jax.api.folders import list_images\n"
        "from bdf_jax.errors import BdfError\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "noted = []\n"
        "print(list_images(sys.argv[1], noted), noted)\n"
        "try: list_images(sys.argv[1])\n"
        "except BdfError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    (tmp_path / "shut").chmod(0o755)
    assert done.returncode == 0, done.stderr
    shut = f"{tmp_path}/shut: cannot look into this folder: Permission denied"
    assert done.stdout == f"['open/1.jpg'] ['{shut}']\n{shut}\n"
