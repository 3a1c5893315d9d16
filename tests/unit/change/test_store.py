"""The journal in a folder of another user's: root works there with that user's rights, and touches nothing else."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal, writer_lock
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.files import inputs
from pmuconf.files.acting import acting_as
from pmuconf.files.place import FileOwner
from tests.unit.processes import python
from tests.unit.unprivileged import as_nobody, open_folder

NOBODY = 65534
NAMES = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.sqlite-journal", "writer.lock"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def path() -> Iterator[Path]:
    """A journal in a folder of user nobody, who gets there."""
    with open_folder() as folder:
        folder.chmod(0o755)
        (folder / "var").mkdir()
        os.chown(folder / "var", NOBODY, NOBODY)
        yield folder / "var/journal.sqlite"


@pytest.fixture
def victim(path: Path) -> Path:
    """A file of root's that nobody but root may write."""
    file = path.parents[1] / "victim"
    file.write_text("precious")
    file.chmod(0o600)
    return file


def use(path: Path) -> None:
    """What every run does with lock and journal."""
    with writer_lock(path), Journal.open(path, create=True) as journal:
        one = Intent(ChangeKind.APPLY, "test:///", "u", "web", PmuState.ON, PmuState.OFF, "default", "<domain/>")
        (number,) = journal.begin([one])
        journal.settle([(number, ChangeStatus.DONE, "")])
        assert journal.entries()[0].id == number


def refused(path: Path) -> PmuconfError:
    with pytest.raises(PmuconfError) as caught:
        use(path)
    assert caught.value.hint
    return caught.value


def untouched(victim: Path) -> bool:
    status = victim.stat()
    return victim.read_text() == "precious" and (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)


def test_what_root_makes_there_belongs_to_the_folders_owner(path: Path) -> None:
    with Journal.open(path, create=True) as journal, writer_lock(path):
        journal.entries()
        made = {file.name: (file.stat().st_uid, file.stat().st_gid) for file in path.parent.iterdir()}
    assert made == dict.fromkeys([*NAMES[:3], "writer.lock"], (NOBODY, NOBODY))
    use(path)


def test_both_use_it_in_turn(path: Path) -> None:
    with writer_lock(path), Journal.open(path, create=True):
        pass
    assert as_nobody(lambda: use(path)) is None
    with writer_lock(path), Journal.open(path, create=True) as journal:
        assert len(journal.entries()) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed(path: Path, victim: Path, name: str, there: bool) -> None:
    target = victim if there else victim.with_name("new")
    (path.parent / name).symlink_to(target)
    assert refused(path).cause == "journal-untrusted"
    assert untouched(victim)
    assert not victim.with_name("new").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_hard_link_is_not_written_to(path: Path, victim: Path, name: str) -> None:
    os.link(victim, path.parent / name)
    assert refused(path).cause == "journal-untrusted"
    assert untouched(victim)


@pytest.mark.parametrize("name", NAMES)
def test_a_fifo_is_refused_and_not_waited_for(path: Path, name: str) -> None:
    os.mkfifo(path.parent / name)
    error = refused(path)
    assert error.cause == "journal-untrusted"
    assert name in error.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["link", "hard link", "link to nothing"])
def test_what_is_put_there_behind_every_check_reaches_nothing(
    path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    """Right before SQLite opens its files, and right before the lock is opened."""
    use(path)

    def plant() -> None:
        file = path.parent / name
        file.unlink(missing_ok=True)
        if how == "hard link":
            os.link(victim, file)
        else:
            file.symlink_to(victim if how == "link" else victim.with_name("new"))

    def first(real: Callable[..., Any]) -> Callable[..., Any]:
        def planting(*arguments: Any, **named: Any) -> Any:
            # As the folder's owner would do it; with root's rights for a hard link, which the kernel may deny others.
            back = libc_fsuid()
            plant()
            back()
            return real(*arguments, **named)

        return planting

    if name == "writer.lock":
        monkeypatch.setattr("pmuconf.change.store.open_regular", first(inputs.open_regular))
    else:
        monkeypatch.setattr(sqlite3, "connect", first(sqlite3.connect))
    with suppress(PmuconfError):  # of those names that it opens at all then
        use(path)
    assert untouched(victim)
    assert not victim.with_name("new").exists()


def libc_fsuid() -> Callable[[], None]:
    """Be root again for a moment, in this thread; the answer ends that."""
    import ctypes

    libc = ctypes.CDLL(None)
    before = libc.setfsuid(0)

    def back() -> None:
        libc.setfsuid(before)

    return back


def test_a_file_that_root_made_there_before_is_named_with_what_to_do(path: Path) -> None:
    path.touch(0o600)
    error = refused(path)
    assert error.cause == "journal-permission"
    assert "chown nobody" in error.hint


def test_a_link_among_the_folders_above_is_not_followed(path: Path, victim: Path) -> None:
    (victim.parent / "elsewhere").mkdir()
    (path.parent / "deep").symlink_to(victim.parent / "elsewhere")
    for below in ("deep/journal.sqlite", "deep/more/journal.sqlite"):
        assert refused(path.parent / below).cause == "journal-untrusted"
    assert list((victim.parent / "elsewhere").iterdir()) == []


def test_folders_that_are_made_there_belong_to_the_owner(path: Path) -> None:
    use(path.parent / "a/b/journal.sqlite")
    assert [(path.parent / name).stat().st_uid for name in ("a", "a/b", "a/b/journal.sqlite")] == [NOBODY] * 3


def test_a_folder_of_roots_below_one_of_anothers_is_the_others(path: Path) -> None:
    """Its owner can put another in its place at any time."""
    (path.parent / "roots").mkdir()
    with pytest.raises(PmuconfError) as caught:
        use(path.parent / "roots/journal.sqlite")
    assert caught.value.cause == "journal-permission"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_all_can_write_to_is_refused(path: Path, mode: int) -> None:
    os.chown(path.parent, 0, 0)
    path.parent.chmod(mode)
    error = refused(path)
    assert error.cause == "journal-untrusted"
    assert f"chmod go-w {path.parent}" in error.hint


def test_another_user_is_not_led_astray_either(path: Path) -> None:
    os.chown(path.parent, 4711, 4711)
    path.parent.chmod(0o755)
    said = as_nobody(lambda: use(path))
    assert isinstance(said, PmuconfError)
    assert said.cause == "journal-untrusted"


def test_in_a_folder_of_roots_an_administrators_link_is_followed(path: Path) -> None:
    os.chown(path.parent, 0, 0)
    (path.parents[1] / "data").mkdir()
    path.symlink_to(path.parents[1] / "data/journal.sqlite")
    use(path)
    assert path.is_symlink()
    assert (path.parents[1] / "data/journal.sqlite").exists()


# ---- acting as another -----------------------------------------------------------------------------------------------


def test_only_the_thread_that_acts_gives_its_rights_up(victim: Path) -> None:
    said: list[str] = []
    with acting_as(FileOwner(NOBODY, NOBODY)):
        with pytest.raises(PermissionError):
            victim.read_text()
        # A thread inherits what the one that starts it has; one that was there before does not.
        assert os.geteuid() == 0

    acting, read = threading.Event(), threading.Event()

    def other() -> None:
        acting.wait(30)
        said.append(victim.read_text())
        read.set()

    thread = threading.Thread(target=other)
    thread.start()
    with acting_as(FileOwner(NOBODY, NOBODY)):
        acting.set()
        assert read.wait(30)
    thread.join()
    assert said == ["precious"]
    assert untouched(victim)


GROUPS = """
import os, sys
from pmuconf.files import inputs
from pmuconf.files.acting import acting_as
from pmuconf.files.place import FileOwner
os.setgroups([4, 6])
try:
    with acting_as(FileOwner(65534, 65534)):
        print(os.getgroups(), os.stat("/proc/thread-self").st_uid, flush=True)
        raise KeyError
except KeyError:
    print(os.getgroups(), os.stat("/proc/thread-self").st_uid, flush=True)
"""


def test_groups_are_given_up_too_and_all_comes_back_after_an_error() -> None:
    said = python(GROUPS).communicate(timeout=60)[0].splitlines()
    assert [line.rpartition(" ")[0] for line in said] == ["[]", "[4, 6]"]
