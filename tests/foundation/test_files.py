"""A write that fails leaves the old file."""

import os
import socket

import pytest
from results import made, same

from cfexplain.foundation import files
from cfexplain.foundation.files import atomic_write
from cfexplain.result import Counterfactuals


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken, error):
    cf, path, page = made(), tmp_path / "cf", tmp_path / "cf.html"
    cf.save(path)
    cf.to_html(page)
    before = path.read_bytes(), page.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(files.os, broken, fail)
    for write, place in ((made(3, seed=5).save, path), (made(3, seed=5).to_html, page)):
        with pytest.raises(type(error)):
            write(place)
    monkeypatch.undo()
    assert (path.read_bytes(), page.read_bytes()) == before
    assert sorted(os.listdir(tmp_path)) == ["cf", "cf.html"]
    same(Counterfactuals.load(path), cf)


def test_where_a_file_cannot_go(tmp_path):
    with pytest.raises(FileNotFoundError, match="create it"):
        made().save(tmp_path / "nowhere" / "cf")
    with pytest.raises(IsADirectoryError):
        made().save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file"):
        Counterfactuals.load(tmp_path / "cf")
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, kind):
    place, link = tmp_path / "place", tmp_path / "link"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(place))
    link.symlink_to(place)
    before = place.stat().st_mode
    for path in (place, link):
        for write in (made().save, made().to_html):
            with pytest.raises(FileExistsError, match="no regular file"):
                write(path)
    assert place.stat().st_mode == before and sorted(os.listdir(tmp_path)) == ["link", "place"]
