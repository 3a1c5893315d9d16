"""Files that are replaced: what is followed, what is written to, what is kept, and what a stranger's folder forbids."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.files import replacing as files
from pmuconf.files.place import open_placed, place
from pmuconf.files.replacing import replace_file, replacing
from tests.support.domains import plain_domain
from tests.unit.processes import ENVIRONMENT, PMUCONF, python

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A folder of another user."""
    folder = tmp_path / "strange"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that nobody asked us to touch."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def refused(path: Path) -> str:
    with pytest.raises(PmuconfError) as caught:
        replace_file(path, "text")
    assert caught.value.cause == "output-unwritable"
    return caught.value.message


# ---- what is written to ----------------------------------------------------------------------------------------------


def device(path: Path) -> None:
    """A /dev/null of our own."""
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


@as_root
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    null = tmp_path / "null"
    device(null)
    replace_file(null, "text")
    assert stat.S_ISCHR(null.stat().st_mode)


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full")
def test_a_device_that_takes_nothing_is_an_error() -> None:
    assert "No space left" in refused(Path("/dev/full"))
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_fifo_that_is_read_gets_the_text(tmp_path: Path) -> None:
    fifo, got = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    text = "text\n" * 100_000
    waited = 0
    while waited < 10_000:  # until the reader has opened it
        try:
            replace_file(fifo, text)
            break
        except PmuconfError:
            waited += 1
            reader.join(0.001)
    reader.join(30)
    assert got == [text]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_fifo_that_nobody_reads_is_an_error_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "nobody reads" in refused(fifo)
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


def test_a_fifo_whose_reader_stands_still_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_READER_SECONDS", 0.01)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(PmuconfError, match="its reader took nothing"):
            replace_file(fifo, "x" * 1_000_000)
    finally:
        os.close(reader)


WRITE = """
import sys
from pathlib import Path
from pmuconf.files.replacing import replace_file
replace_file(Path({!r}), 'text')
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"])
def test_standard_output_is_written_to_by_its_names(name: str) -> None:
    process = python(WRITE.format(name))
    assert process.communicate(timeout=60)[0] == "text"


def test_standard_output_that_is_a_file_is_appended_to_and_stays_that_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    number = path.stat().st_ino
    with path.open("a") as log:
        subprocess.run(
            [sys.executable, "-c", WRITE.format("/dev/stdout")], stdout=log, env=ENVIRONMENT, check=True, timeout=60
        )
    assert path.read_text() == "before\ntext"
    assert path.stat().st_ino == number


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    assert "directory" in refused(tmp_path)


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_names_is_replaced_in_its_own_folder(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target = tmp_path / "far/target"
    if there:
        target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to("middle")
    (tmp_path / "middle").symlink_to(target)
    replace_file(link, "text")
    assert os.readlink(link) == "middle"
    assert target.read_text() == "text"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    assert "symbolic links" in refused(tmp_path / "link")


def test_a_command_follows_them_too(tmp_path: Path) -> None:
    (tmp_path / "web.xml").write_text(plain_domain("web"))
    (tmp_path / "link.json").symlink_to("report.json")
    arguments = ["report", "--xml", str(tmp_path / "web.xml"), "-f", "json", "-o", str(tmp_path / "link.json")]
    ran = subprocess.run([*PMUCONF, *arguments], env=ENVIRONMENT, timeout=60)
    assert ran.returncode in (0, 1, 2)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "report.json").read_text().startswith("{")


# ---- what is kept ----------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o4755, 0o755)])
def test_a_file_that_is_replaced_keeps_its_mode_but_for_the_right_of_others_to_write(
    tmp_path: Path, before: int, after: int
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(before)
    replace_file(path, "text")
    assert mode(path) == after


def test_a_new_file_is_for_all_to_read(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", "text")
    assert mode(tmp_path / "file") == 0o644


@as_root
def test_it_keeps_its_owner_unless_it_is_to_be_ours(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    replace_file(path, "text")
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (NOBODY, NOBODY, 0o600)
    replace_file(path, "text", ours=True)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (0, 0, 0o644)


def test_an_error_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(error: BaseException) -> None:
        with replacing(path) as file:
            file.write("new")
            raise error

    with pytest.raises(PmuconfError, match="No space left"):
        fail(OSError(28, "No space left on device"))
    with pytest.raises(KeyError):
        fail(KeyError())
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


# ---- a folder that others can write to -------------------------------------------------------------------------------


@as_root
def test_a_link_in_a_strangers_folder_is_not_followed(strange: Path, victim: Path) -> None:
    (strange / "out").symlink_to(victim)
    assert "symbolic link" in refused(strange / "out")
    assert victim.read_text() == "precious"


@as_root
def test_a_link_to_a_folder_in_a_strangers_folder_is_not_followed(strange: Path, tmp_path: Path) -> None:
    (strange / "reports").symlink_to(tmp_path)
    assert "symbolic link" in refused(strange / "reports/out")
    assert not (tmp_path / "out").exists()


@as_root
def test_a_file_in_a_strangers_folder_is_replaced_and_what_it_was_linked_to_stays(strange: Path, victim: Path) -> None:
    os.link(victim, strange / "out")
    replace_file(strange / "out", "text")
    assert victim.read_text() == "precious"
    assert (strange / "out").read_text() == "text"
    assert (strange / "out").stat().st_uid == 0


@as_root
@pytest.mark.parametrize("what", ["fifo", "device"])
def test_what_is_no_regular_file_is_refused_in_a_strangers_folder(strange: Path, what: str) -> None:
    if what == "fifo":
        os.mkfifo(strange / "out")
        reader = os.open(strange / "out", os.O_RDONLY | os.O_NONBLOCK)
    else:
        device(strange / "out")
        reader = os.open(os.devnull, os.O_RDONLY)
    assert "no regular file" in refused(strange / "out")
    os.close(reader)


@as_root
def test_a_folder_that_is_put_in_the_place_of_another_meanwhile_gets_nothing(strange: Path, tmp_path: Path) -> None:
    """What is replaced lies in the folder that was walked to, whatever its name leads to by now."""
    folder = strange / "reports"
    folder.mkdir()
    with replacing(folder / "out") as file:
        folder.rename(strange / "away")
        folder.symlink_to(tmp_path)
        file.write("text")
    assert (strange / "away/out").read_text() == "text"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("mode", "trusted"), [(0o755, True), (0o777, False), (0o1777, False)])
def test_whom_a_folder_is_open_to_makes_it_a_strangers(tmp_path: Path, mode: int, trusted: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    with place(folder / "file") as at:
        assert at.trusted is trusted


@pytest.mark.parametrize(("mode", "trusted"), [(0o777, False), (0o1777, True)])
def test_in_a_sticky_folder_our_own_is_ours(tmp_path: Path, mode: int, trusted: bool) -> None:
    (tmp_path / "all/ours").mkdir(parents=True)
    (tmp_path / "all").chmod(mode)
    (tmp_path / "all/link").symlink_to("ours")
    with place(tmp_path / "all/ours/file") as at:
        assert at.trusted is trusted
    if trusted:
        with place(tmp_path / "all/link/file") as at:
            assert at.trusted
    else:
        with pytest.raises(OSError, match="symbolic link"), place(tmp_path / "all/link/file"):
            pass


@as_root
@pytest.mark.parametrize(("group", "trusted"), [(0, True), (NOBODY, False)])
def test_a_folder_that_a_group_can_write_to(tmp_path: Path, group: int, trusted: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, 0, group)
    folder.chmod(0o775)
    with place(folder / "file") as at:
        assert at.trusted is trusted


@pytest.mark.parametrize("path", ["a/../b/file", "./b//file", "b/./file", "b/c/../file", "link/file", "link/../b/file"])
def test_the_ways_to_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "b/file").write_text("x")
    monkeypatch.chdir(tmp_path)
    for way in (Path(path), tmp_path / path):
        with place(way) as at:
            assert at.path == tmp_path.resolve() / "b/file"
            assert at.status is not None
            assert at.status.st_ino == (tmp_path / "b/file").stat().st_ino


@as_root
def test_a_strangers_hard_link_is_not_read(strange: Path, victim: Path) -> None:
    os.link(victim, strange / "facts")
    with pytest.raises(OSError, match="other names"):
        open_placed(strange / "facts")
    os.link(victim, victim.with_name("too"))
    os.close(open_placed(victim))
