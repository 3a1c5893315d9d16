"""Every command where nothing is as it should be: each ends with a sentence and a code, and with a known status."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from pmuconf.causes import CAUSES
from pmuconf.commands.names import COMMANDS
from pmuconf.fastpath.cases import CASES
from tests.causes import guard_causes
from tests.support.domains import plain_domain
from tests.support.surroundings import CLOSED, NOT_ENTERED, UNREAD, Ended, Surroundings, World
from tests.unit.processes import ENVIRONMENT

USERS = pytest.mark.parametrize("nobody", [False, True], ids=["as we are", "ordinary user"])

COMMAND_LINES: Final = {
    "apply": ["apply"],
    "audit": ["audit"],
    "audit of files": ["audit", "--xml", "{place}/xml"],
    "audit as JSON": ["audit", "--xml", "{place}/xml", "-f", "json"],
    "bench compare": ["bench", "compare", "{place}/garbage", "{place}/garbage"],
    "bench cpuid": ["bench", "cpuid", "--seconds", "1", "--pairs", "1", "--rounds", "1", "--exits", "100"],
    "bench msr": ["bench", "msr", "--seconds", "1", "--pairs", "1", "--rounds", "1", "--exits", "100"],
    "bench port": ["bench", "port", "--seconds", "1", "--pairs", "1", "--rounds", "1", "--exits", "100"],
    "complete": ["complete"],
    "explain": ["explain", "web"],
    "flavors apply": ["flavors", "apply", "--os-cloud", "none-such", "--dry-run"],
    "flavors audit": ["flavors", "audit", "--os-cloud", "none-such"],
    "flavors export": ["flavors", "export", "--os-cloud", "none-such"],
    "flavors rollback": ["flavors", "rollback", "--os-cloud", "none-such", "--all"],
    "fleet diff": ["fleet", "diff", "{place}/reports", "{place}/reports"],
    "fleet plan": ["fleet", "plan", "{place}/reports"],
    "fleet report": ["fleet", "report", "{place}/reports"],
    "help": ["help", "audit"],
    "host": ["host"],
    "host facts": ["host", "facts"],
    "host judge": ["host", "judge", sys.executable],
    "host record": ["host", "record", "{place}/record"],
    "journal": ["journal"],
    "journal purge": ["journal", "purge"],
    "nova check": ["nova", "check"],
    "nova check of a Python": ["nova", "check", "--python", "{place}/garbage"],
    "policy check": ["policy", "check"],
    "policy explain": ["policy", "explain", "web"],
    "policy explain a flavor": ["policy", "explain", "--flavor", "perf.large"],
    "host disable-pmu": ["host", "disable-pmu", "--check"],
    "preflight qemu": ["preflight", "qemu", "/bin/true"],
    "qemu prove": ["qemu", "prove", "/bin/true"],
    "report": ["report"],
    "report of files": ["report", "--xml", "{place}/xml"],
    "report as metrics": ["report", "-f", "prometheus", "--xml", "{place}/xml"],
    "report as a page": ["report", "-f", "html", "--xml", "{place}/xml"],
    "hook kubevirt": ["hook", "kubevirt", "--vmi", "{}", "--domain", "<domain/>"],
    "hook vdsm": ["hook", "vdsm", "--strict"],
    "hook opennebula": ["hook", "opennebula", "--vm", "{place}/garbage"],
    "rewrite": ["rewrite", "--pmu", "off"],
    "rewrite a file": ["rewrite", "{place}/xml/web.xml"],
    "rollback": ["rollback", "--all"],
    "selftest": ["selftest"],
    "selftest as JSON": ["selftest", "-f", "json"],
    "serve": ["serve"],
    "status": ["status"],
    "status of a monitoring system": ["status", "--check"],
    "the help of audit": ["audit", "--help"],
    "the overview": ["--help"],
    "the version": ["--version"],
    "usage": ["audit", "--no-such"],
}
"""What each command is given where its surroundings are hostile: enough for it to go as far as it can."""

FILE_LINES: Final = (
    ["audit", "--xml", "{file}"],
    ["audit", "--xml", "{place}/xml", "--flavors", "{file}"],
    ["audit", "--xml", "{place}/xml", "--host-facts", "{file}"],
    ["audit", "--connect", "qemu+unix:///system?socket={file}"],
    ["apply", "--connect", "qemu+unix:///system?socket={file}"],
    ["status", "--host-facts", "{file}"],
    ["report", "--xml", "{file}", "-f", "csv"],
    ["report", "--xml", "{place}/xml", "-o", "{file}"],
    ["rewrite", "{file}"],
    ["hook", "opennebula", "--strict", "--vm", "{file}"],
    ["policy", "explain", "--xml", "{file}"],
    ["host", "--root", "{file}"],
    ["host", "judge", "{file}"],
    ["host", "judge", sys.executable, "--btf", "{file}"],
    ["host", "record", "{file}"],
    ["host", "record", "--root", "{file}", "{place}/record"],
    ["host", "facts", "-o", "{file}"],
    ["host", "disable-pmu", "--check", "--flavors", "{file}"],
    ["preflight", "qemu", "{file}"],
    ["qemu", "prove", "{file}"],
    ["bench", "compare", "{file}", "{file}"],
    ["nova", "check", "--python", "{file}"],
    ["nova", "check", "--nova-config-file", "{file}"],
    ["flavors", "export", "--os-cloud", "none-such", "-o", "{file}"],
    ["fleet", "report", "{file}"],
    ["fleet", "report", "{place}/reports", "-o", "{file}"],
    ["fleet", "report", "{place}/reports", "-f", "html", "--host-pages", "-o", "{file}"],
    ["fleet", "report", "{place}/reports", "--expect", "@{file}"],
    ["fleet", "diff", "{file}", "{place}/reports"],
    ["fleet", "plan", "{file}"],
    ["fleet", "plan", "{place}/reports", "--limit", "@{file}", "-o", "{file}"],
    ["--config-file", "{file}", "policy", "check"],
    ["--config-dir", "{file}", "policy", "check"],
    ["--log-file", "{file}", "policy", "check"],
    ["--journal", "{file}", "journal"],
    ["--journal", "{file}", "journal", "web"],
    ["--journal", "{file}", "journal", "purge"],
    ["--journal", "{file}", "rollback", "--all"],
    ["--journal", "{file}", "flavors", "rollback", "--os-cloud", "none-such", "--all"],
)
"""Each place where a command takes a file. --journal stands for a configuration with that journal."""

FILES: Final = {
    "nothing": "{place}/nothing",
    "a folder": "{place}/folder",
    "no text": "{place}/garbage",
    "an empty file": "{place}/empty",
    "below a file": "{place}/empty/below",
    "in a closed folder": "{place}/closed/file",
    "a closed file": "{place}/unreadable",
    "a link to itself": "{place}/loop",
    "a link to nothing": "{place}/dangling",
    "a name that is too long": "{place}/" + "x" * 300,
    "a path that is too long": "{place}/nothing/" + "x/" * 3000,
    "a pipe": "{place}/pipe",
    "a socket": "{place}/socket",
    "a full device": "/dev/full",
    "no device": "/dev/null",
    "memory that can't be read": "/proc/self/mem",
    "another's environment": "/proc/1/environ",
    "no UTF-8": "{place}/\udcff",
    "empty": "",
    "signs": "{place}/a\nb\x1b[31m",
    "a folder of the kernel's": "/proc/self/fd",
}

SURROUNDINGS: Final = {
    "no output": Surroundings(stdout=CLOSED),
    "a full disk": Surroundings(stdout="/dev/full"),
    "an output that nobody reads": Surroundings(stdout=UNREAD),
    "an output that can only be read": Surroundings(stdout="/dev/null"),
    "no messages": Surroundings(stderr=CLOSED),
    "messages on a full disk": Surroundings(stderr="/dev/full"),
    "messages that nobody reads": Surroundings(stderr=UNREAD),
    "no output and no messages": Surroundings(stdout=CLOSED, stderr=CLOSED),
    "output and messages on a full disk": Surroundings(stdout="/dev/full", stderr="/dev/full"),
    "no input": Surroundings(stdin=CLOSED),
    "an input that can't be read": Surroundings(stdin="/proc/self/mem"),
    "no stream at all": Surroundings(stdin=CLOSED, stdout=CLOSED, stderr=CLOSED),
    "no home": Surroundings(environment={"HOME": None, "USER": None, "LOGNAME": None, "XDG_RUNTIME_DIR": None}),
    "a home that is no folder": Surroundings(environment={"HOME": "/dev/null", "XDG_RUNTIME_DIR": "/dev/null"}),
    "a home that is not there": Surroundings(environment={"HOME": "/none/such", "XDG_CONFIG_HOME": "relative"}),
    "no place for temporary files": Surroundings(environment={"TMPDIR": "/none/such"}),
    "no programs": Surroundings(environment={"PATH": ""}),
    "the language C": Surroundings(environment={"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}),
    "an environment of nonsense": Surroundings(
        environment={"COLUMNS": "-7", "LINES": "x", "TZ": "/etc/passwd", "TERM": "\x1b", "LANG": "xx_YY.nonsense"}
    ),
    "a working folder that is gone": Surroundings(folder=""),
    "small files": Surroundings(limits={"FSIZE": 4096}),
    "no more open files": Surroundings(limits={"NOFILE": 3}),
    "few open files": Surroundings(limits={"NOFILE": 9}),
    "no more processes": Surroundings(limits={"NPROC": 0}),
    "no /proc": Surroundings(hidden=("/proc",)),
    "no /sys": Surroundings(hidden=("/sys",)),
    "no /proc and no /dev": Surroundings(hidden=("/proc", "/dev")),
    "no /etc": Surroundings(hidden=("/etc",)),
}

_STEP: Final = 11
CODES: Final = frozenset(CAUSES) | frozenset(CASES) | guard_causes()
ODD: Final = re.compile(
    r"Traceback|\[Errno|Exception ignored|halted|\(internal\)|defect|<class|<[a-z_.]+ object| at 0x"
    r"|PosixPath|\b[A-Z][A-Za-z]*(Error|Exception|Warning)\b|\('[^']*',|\bNone\b|\bb'|codec can't|\x1b|not entered"
)
"""What only a programmer understands."""


@dataclass(frozen=True)
class Place:
    """A folder that an ordinary user may enter, with all that the command lines name."""

    folder: Path
    world: World

    def run(self, line: list[str], around: Surroundings, file: str = "") -> Ended:
        """Run a command line whose gaps are filled."""
        given = [part.replace("{file}", file).replace("{place}", str(self.folder)) for part in line]
        config = self.folder / "pmuconf.conf"
        if given[0] == "--journal":
            config = self.folder / "journal.conf"
            config.write_bytes(_configuration(given[1].replace("\n", "")))
            given = given[2:]
        if given[0] not in ("--config-file", "--config-dir", "--version"):
            given = ["--config-file", str(config), *given]
        shutil.rmtree(self.folder / "record", ignore_errors=True)
        return self.world.run(given, around)


def _configuration(journal: str) -> bytes:
    text = f"[libvirt]\nuri = qemu+unix:///system?socket=/none/such\n[journal]\npath = {journal}\n"
    text += "[service]\nlisten = 192.0.2.1:1\nlisten_beyond_loopback = true\n"  # an address for documents: serve ends
    return text.encode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="pmuconf-hostile-"))
    folder.chmod(0o777)
    for name in ("xml", "reports", "folder"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    (folder / "closed").mkdir(mode=0o700)
    (folder / "closed" / "file").write_text("x")
    (folder / "xml" / "web.xml").write_text(plain_domain("web"))
    (folder / "garbage").write_bytes(bytes(range(256)) * 64)
    (folder / "garbage").chmod(0o755)
    (folder / "empty").touch()
    (folder / "unreadable").touch(mode=0)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("/none/such")
    (folder / "pmuconf.conf").write_bytes(_configuration(f"{folder}/closed/journal.sqlite"))
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound, World.opened() as world:
        bound.bind(str(folder / "socket"))
        yield Place(folder, world)
    shutil.rmtree(folder)


def odd(ended: Ended, around: Surroundings, line: list[str]) -> list[str]:
    """What is wrong with the end of a run; empty if nothing is."""
    wrong = []
    known = {0, 1, 2, 3, 255} if "--check" in line else {0, 1, 2, 255}
    if ended.status not in known:
        wrong.append(f"status {ended.status}")
    text = ended.out + ended.err
    if line != ["complete"]:
        wrong += [f"shows {match[0]!r}" for match in ODD.finditer(text)]
    heard = not around.stderr and around.stdout != UNREAD
    if ended.status == 255 and heard and not any(f"({code})" in ended.err for code in CODES):
        wrong.append("no code")
    return wrong


def sentence(line: list[str], wrong: list[str], ended: Ended) -> str:
    return f"{' '.join(line)}: {'; '.join(wrong)}\n    status {ended.status}: {ended.err[-700:]}"


def chosen(lines: Iterable[list[str]], at: int) -> list[list[str]]:
    """Every eleventh line, other ones for each number; all of them where fuzzing is asked for."""
    every = list(lines)
    return every if "PMUCONF_FUZZ" in os.environ else every[at % _STEP :: _STEP]


def test_every_command_has_a_line() -> None:
    lines = [" ".join(line) for line in COMMAND_LINES.values()]
    missing = [name for name in COMMANDS if not any(line.startswith(name) for line in lines)]
    assert missing == []


@USERS
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings(place: Place, name: str, nobody: bool) -> None:
    around = replace(SURROUNDINGS[name], nobody=nobody)
    found = []
    for line in chosen(COMMAND_LINES.values(), list(SURROUNDINGS).index(name) + nobody):
        ended = place.run(line, around)
        if ended.status == NOT_ENTERED and around.hidden:
            pytest.skip("needs the right to mount")
        wrong = odd(ended, around, line)
        found += [sentence(line, wrong, ended)] if wrong else []
    assert not found, "\n".join(found)


@USERS
@pytest.mark.parametrize("name", FILES)
def test_files(place: Place, name: str, nobody: bool) -> None:
    around = Surroundings(folder=str(place.folder / "folder"), nobody=nobody)
    file = FILES[name].replace("{place}", str(place.folder))
    found = []
    for line in chosen(FILE_LINES, list(FILES).index(name) + nobody):
        ended = place.run(line, around, file)
        wrong = odd(ended, around, line)
        found += [sentence(line, wrong, ended)] if wrong else []
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "line", "status", "message"),
    [
        (
            "a full disk",
            "the help of audit",
            255,
            "the output can't be written: No space left on device (output-unwrit",
        ),
        ("a full disk", "audit of files", 255, "the output can't be written: No space left on device (output-unwrit"),
        ("an output that nobody reads", "the help of audit", 255, ""),
        ("messages on a full disk", "audit", 255, ""),
        ("messages that nobody reads", "usage", 255, ""),
        ("output and messages on a full disk", "audit as JSON", 255, ""),
        ("no messages", "usage", 255, ""),
        ("no input", "rewrite", 255, "standard input is closed (file-unreadable)"),
        ("an input that can't be read", "rewrite", 255, "standard input: Input/output error (file-unreadable)"),
        ("no more open files", "the help of audit", 0, ""),
    ],
)
def test_streams_of_which_one_fails(place: Place, name: str, line: str, status: int, message: str) -> None:
    ended = place.run(COMMAND_LINES[line], SURROUNDINGS[name])
    assert (ended.status, ended.err.count("pmuconf: ")) == (status, 1 if message else 0)
    assert message in ended.err
    assert "no-such" not in ended.out


def test_a_log_that_nobody_reads_is_not_waited_for(place: Place) -> None:
    ended = place.run(["--log-file", f"{place.folder}/pipe", "policy", "check"], Surroundings())
    assert (ended.status, ended.err.count("nobody reads from it (output-unwritable)")) == (255, 1)


def test_a_journal_whose_path_is_too_long_makes_no_folders(place: Place) -> None:
    journal = f"{{place}}/too/{'long/' * 1000}"
    ended = place.run(["--journal", journal, "journal", "purge"], Surroundings())
    assert ended.status == 255
    assert "File name too long (journal-" in ended.err
    assert not (place.folder / "too").exists()


def test_folders_within_folders_without_end(place: Place) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        opened.callback(subprocess.run, ["rm", "-rf", f"{folder}/deep"], check=True)  # Python's own can't
        os.mkdir(f"{folder}/deep")
        program = "import os\nfor _ in range(1500):\n    os.mkdir('deep', 0o755)\n    os.chdir('deep')\n"
        subprocess.run([sys.executable, "-c", program], cwd=f"{folder}/deep", check=True)
        ended = place.run(["fleet", "report", folder], Surroundings())
    assert odd(ended, Surroundings(), ["fleet", "report"]) == []
    assert ended.status == 255


def test_a_closed_stream_is_no_number_for_a_file() -> None:
    """Libraries in C write to standard error by its number, which our pipe for interrupts would have."""
    program = (
        "import os, sys\n"
        "from pmuconf.commands.main import main\n"
        "sys.argv[1:] = ['--version']\n"
        "main()\n"
        "print([os.path.samestat(os.fstat(number), os.stat(os.devnull)) for number in (0, 2)])\n"
    )
    line = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", program]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.splitlines()[-1] == "[True, True]"
