"""The journal's files: who may read them, what is left in them, and what is said of those that are no journal."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal, writer_lock
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.driver import Driver
from tests.unit.processes import python
from tests.unit.unprivileged import as_nobody, open_folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "journal.sqlite"


def intent(preimage: str = "<domain/>") -> Intent:
    return Intent(ChangeKind.APPLY, "test:///", "u", "web", PmuState.ON, PmuState.OFF, "default", preimage)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def refused(path: Path, *, create: bool = False) -> PmuconfError:
    with pytest.raises(PmuconfError) as caught, Journal.open(path, create=create) as journal:
        journal.entries()
    assert str(path) in caught.value.message
    assert caught.value.hint or caught.value.cause == "journal-missing"
    return caught.value


# ---- who may read them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177])
def test_its_files_are_its_owners_alone_whatever_the_umask(path: Path, mask: int) -> None:
    with umask(mask), Journal.open(path, create=True) as journal, writer_lock(path):
        journal.begin([intent()])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        folder = stat.S_IMODE(path.parent.stat().st_mode)
    assert modes == dict.fromkeys(["journal.sqlite", "journal.sqlite-shm", "journal.sqlite-wal", "writer.lock"], 0o600)
    assert folder & 0o077 == 0


def test_a_folder_that_is_there_keeps_its_mode(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)
    with Journal.open(path, create=True):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


# ---- what is left in them ------------------------------------------------------------------------------------------

MARK = "s3cret-Pa55"


def secret(size: int) -> str:
    """XML with a secret so often that no page of the file can hold a piece of it without the mark."""
    return "<domain>" + "".join(f"<graphics passwd='{MARK}{number:06}'/>" for number in range(size)) + "</domain>"


def found_in(path: Path) -> set[str]:
    """The journal's files that hold the mark, read by another process: closing a file here would drop our locks."""
    files = sorted(path.parent.iterdir())
    grep = subprocess.run(
        ["grep", "--files-with-matches", "--text", "--fixed-strings", MARK, *map(str, files)],
        stdout=subprocess.PIPE,
        check=False,
    )
    return {Path(line).name for line in grep.stdout.decode().splitlines()}


@pytest.mark.parametrize("size", [1, 100, 10_000])
@pytest.mark.parametrize("ended", [ChangeStatus.DONE, ChangeStatus.ABANDONED, ChangeStatus.RESTORED])
def test_once_settled_no_byte_of_a_secret_is_left_while_the_journal_is_still_open(
    path: Path, size: int, ended: ChangeStatus
) -> None:
    with Journal.open(path, create=True) as journal:
        numbers = journal.begin([intent(secret(size)) for _ in range(3)])
        assert found_in(path), "they are kept until the change is settled"
        journal.settle((number, ended, "") for number in numbers)
        assert found_in(path) == set()
    assert found_in(path) == set()


def test_nor_of_a_text_that_a_later_plan_replaced(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        (number,) = journal.begin([intent(secret(1000))])
        journal.replan(number, PmuState.ON, PmuState.OFF, "default", secret(10))
        journal.replan(number, PmuState.ON, PmuState.OFF, "default", "<domain/>")
        journal.settle([(number, ChangeStatus.DONE, "")])
        assert found_in(path) == set()


def test_nor_of_what_was_in_the_file_itself_when_a_crash_came(path: Path) -> None:
    """A run that dies leaves its changes in flight; the next one settles them."""
    with Journal.open(path, create=True) as journal:
        journal.begin([intent(secret(1000))])
    assert found_in(path) == {"journal.sqlite"}
    with Journal.open(path) as journal:
        journal.settle((entry.id, ChangeStatus.DONE, "settled") for entry in journal.in_flight(Driver("test:///")))
        assert found_in(path) == set()


def test_settling_one_change_keeps_the_text_of_the_others(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        first, second = journal.begin([intent(secret(1)), intent(secret(2))])
        journal.settle([(first, ChangeStatus.DONE, "")])
        assert journal.preimage(second) == secret(2)


# ---- what is no journal --------------------------------------------------------------------------------------------


def test_a_journal_that_is_not_there_is_not_made_by_looking(path: Path) -> None:
    assert refused(path).cause == "journal-missing"
    assert not path.parent.exists()


def test_a_journal_of_another_format(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        journal.begin([intent()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    error = refused(path)
    assert error.cause == "journal-version"
    assert "format 3" in error.message
    assert "newer pmuconf" in error.hint


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("data", [b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 4096, b"<domain/>" * 100])
def test_a_file_that_is_no_journal(path: Path, data: bytes, create: bool) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    error = refused(path, create=create)
    assert error.cause == "journal-damaged"
    assert f"Move {path} away" in error.hint
    assert path.read_bytes() == data


def test_a_journal_that_lost_its_end(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        numbers = journal.begin([intent("x" * 500) for _ in range(200)])
        journal.settle((number, ChangeStatus.DONE, "") for number in numbers)
    path.write_bytes(path.read_bytes()[:8192])
    assert refused(path).cause == "journal-damaged"


def test_a_database_of_somebody_else(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE change (id)")
        connection.commit()
    assert refused(path).cause == "journal-damaged"


@pytest.mark.parametrize("where", ["BEGIN", "INSERT"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW change AS WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n",
        "CREATE VIEW other AS SELECT 1",
        "CREATE TABLE change (id); CREATE TRIGGER endless AFTER INSERT ON change BEGIN DELETE FROM change WHERE id IN "
        "(WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n); END",
    ],
    ids=["endless view", "view", "trigger"],
)
def test_a_journal_that_would_run_what_it_says_is_refused(path: Path, statement: str, where: str) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{statement}; PRAGMA user_version = {2 if where == 'BEGIN' else 0}")

    error = refused(path)

    assert (error.cause, "views or triggers" in error.message) == ("journal-damaged", True)


def test_a_schema_with_a_name_that_is_no_text_is_damaged(path: Path) -> None:
    """SQLite says the name in its sentence, which is no UTF-8 then."""
    with Journal.open(path, create=True):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b"CREATE INDEX change_uuid ON change", b"CREATE INDEX change_uuid ON \xff\xff\xff\xff\xff\xff")
    )

    assert refused(path).cause == "journal-damaged"


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)
    for create in (True, False):
        assert refused(path, create=create).cause == "journal-permission"


def test_a_file_in_the_place_of_its_folder(path: Path) -> None:
    path.parent.write_text("")
    assert refused(path, create=True).cause == "journal-permission"


@pytest.mark.parametrize("what", ["folder", "file", "both", "lock"])
def test_without_the_right_to_write(what: str) -> None:
    """By design: the journal is root's; whoever else looks is told so and is shown nothing."""
    with open_folder() as folder:
        folder.chmod(0o755)
        path = folder / "var" / "journal.sqlite"
        with Journal.open(path, create=True) as journal, writer_lock(path):
            journal.begin([intent(MARK)])
        path.parent.chmod(0o755)
        if what == "folder":
            path.chmod(0o666)

        def look() -> object:
            if what == "lock":
                with writer_lock(path):
                    return "held"
            with Journal.open(path, create=what == "both") as journal:
                return journal.entries()

        said = as_nobody(look)
    assert isinstance(said, PmuconfError)
    assert said.cause == "journal-permission"
    assert said.hint
    assert MARK not in str(said)


# ---- one writer ----------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from pmuconf.change.journal import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, until it is told a line or is killed."""
    process = python(HOLD, str(path))
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_of_two_processes_one_writes_and_the_other_is_told_which(path: Path) -> None:
    with holder(path) as process:
        with pytest.raises(PmuconfError) as caught, writer_lock(path):
            pass
        assert caught.value.cause == "locked"
        assert f"(process {process.pid})" in caught.value.message
        assert str(path.with_name("writer.lock")) in caught.value.hint


def test_the_lock_is_free_when_its_holder_ends(path: Path) -> None:
    with holder(path) as process:
        process.communicate("go on\n")
        assert process.returncode == 0
        with writer_lock(path):
            assert path.with_name("writer.lock").read_text() == str(os.getpid())


def test_the_lock_is_free_when_its_holder_is_killed(path: Path) -> None:
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with writer_lock(path):
            assert path.with_name("writer.lock").read_text() == str(os.getpid())


def test_two_holders_in_one_process_exclude_each_other_too(path: Path) -> None:
    with writer_lock(path):
        with pytest.raises(PmuconfError) as caught, writer_lock(path):
            pass
        assert caught.value.cause == "locked"
    with writer_lock(path):
        pass


def test_the_lock_is_free_after_an_error(path: Path) -> None:
    with pytest.raises(KeyError), writer_lock(path):
        raise KeyError
    with writer_lock(path):
        pass


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(path: Path) -> None:
    """Whatever a writer starts: the lock's file is closed when the child's own program begins."""
    with writer_lock(path):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        with writer_lock(path):
            pass
    finally:
        child.communicate()


def test_a_lock_file_with_nonsense_in_it_still_works(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("writer.lock").write_bytes(b"\xff\x1b[31m" * 100)
    with writer_lock(path):
        assert path.with_name("writer.lock").read_text() == str(os.getpid())


def test_a_journal_that_another_one_holds_is_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.open(path, create=True):
        pass
    connect = sqlite3.connect

    def at_once(*arguments: object, **named: object) -> sqlite3.Connection:
        return connect(*arguments, **{**named, "timeout": 0.01})  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", at_once)
    with closing(connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PmuconfError) as caught, Journal.open(path, create=True) as journal:
            journal.begin([intent()])
    assert (caught.value.cause, caught.value.hint) == ("journal-busy", "Another pmuconf is at it: try again")
