"""Files that somebody else may have made: opened without waiting, regular, read to a limit."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from pmuconf.files.inputs import open_regular, read_regular


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)

    assert read_regular(path, 3_000_000) == b"x" * 3_000_000


def test_a_file_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)

    with pytest.raises(OSError, match="larger than 10 bytes") as refused:
        read_regular(path, 10)
    assert refused.value.errno == errno.EFBIG


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, flags: int) -> None:
    path = tmp_path / kind
    listening = socket.socket(socket.AF_UNIX)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        listening.bind(os.fspath(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")

    with listening, pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        open_regular(path, flags)


def test_a_symbolic_link_is_followed_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("there")
    (tmp_path / "link").symlink_to("file")

    assert read_regular(tmp_path / "link", 10) == b"there"
    with pytest.raises(OSError) as refused:  # noqa: PT011  # the number is what tells it
        read_regular(tmp_path / "link", 10, follow=False)
    assert refused.value.errno == errno.ELOOP


def test_a_file_is_found_below_an_open_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("there")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert read_regular("file", 10, dir_fd=folder) == b"there"
    finally:
        os.close(folder)


def test_no_descriptor_is_left_open_by_a_refusal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path / "fifo")

    assert len(os.listdir("/proc/self/fd")) == before
