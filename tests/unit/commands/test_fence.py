"""Commands that read only files end in time and below a limit of memory, whatever the files hold."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pmuconf.commands.fence import fence
from pmuconf.commands.main import main
from pmuconf.errors import PmuconfError
from tests.support.bounded import bounded
from tests.support.hostile import PAYLOADS
from tests.unit.processes import python

DOMAIN = "<domain type='kvm'><name>web</name><os><type arch='x86_64'>hvm</type></os></domain>"


def test_what_takes_too_long_is_ended() -> None:
    def work() -> None:
        with fence(seconds=0.05):
            while True:
                pass

    with pytest.raises(PmuconfError) as caught:
        work()
    assert caught.value.cause == "input-too-slow"


def test_nothing_that_catches_errors_holds_it_up() -> None:
    def work() -> None:
        with fence(seconds=0.05):
            while True:
                with suppress(Exception):
                    time.sleep(10)

    with pytest.raises(PmuconfError) as caught:
        work()
    assert caught.value.cause == "input-too-slow"


def test_what_takes_too_much_memory_is_ended() -> None:
    process = python(
        """
from pmuconf.commands.fence import fence
from pmuconf.errors import PmuconfError
kept = []
try:
    with fence():
        while True:
            kept.append(bytearray(1 << 20))
except PmuconfError as error:
    print(error.cause, 300 < len(kept) < 410)
kept.append(bytearray(500 << 20))  # afterwards the limit is gone
"""
    )
    assert process.communicate() == ("input-too-large True\n", "")


def test_afterwards_there_is_no_alarm() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with fence(seconds=100):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert (signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)) == ((0.0, 0.0), before)


def test_in_another_thread_there_is_no_alarm_to_set() -> None:
    ended: list[str] = []

    def work() -> None:
        with fence():
            ended.append("yes")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["yes"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "--xml", "IN"],
        ["report", "--xml", "IN"],
        ["report", "-f", "html", "--xml", "IN"],
        ["rewrite", "IN"],
        ["policy", "explain", "--xml", "IN"],
        ["--config-file", "IN", "policy", "check"],
        ["--config-file", "IN", "audit", "--xml", "vm.xml"],
        ["audit", "--xml", "vm.xml", "--flavors", "IN"],
        ["bench", "compare", "IN", "IN"],
        ["host", "--root", "IN"],
        ["host", "judge", "IN"],
        ["host", "--module", "IN"],
        ["host", "--vmlinux", "IN"],
        ["fleet", "report", "IN"],
        ["fleet", "plan", "IN"],
        ["fleet", "diff", "IN", "IN"],
        ["fleet", "report", "vm.xml", "--expect", "@IN"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["fifo", "huge", "endless"])
def test_a_file_that_is_none_or_without_end_ends_every_command(tmp_path: Path, arguments: list[str], kind: str) -> None:
    (tmp_path / "vm.xml").write_text(DOMAIN)
    if kind == "fifo":
        os.mkfifo(tmp_path / "IN")
    elif kind == "huge":
        (tmp_path / "IN").touch()
        os.truncate(tmp_path / "IN", 4 << 30)
    else:
        (tmp_path / "IN").symlink_to("/dev/zero")

    ended = bounded(*arguments, folder=tmp_path)

    assert ended.status in (1, 2, 255)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5_000_000,
        '{"format": "pmuconf-flavors", "version": 1, "flavors": [' + "{}," * 5_000_000 + "{}]}",
        '{"format": "pmuconf-bench-run", "version": 1, "pairs": [' + "[]," * 5_000_000 + "[]]}",
        '{"format": "pmuconf-report", "version": 1, "generated_at": "2030-01-01T00:00:00+00:00", "host": "a", '
        '"domains": [' + "{}," * 15_000_000 + "{}]}",
        '{"format": "pmuconf-report", "version": 1, "generated_at": "2030-01-01T00:00:00+00:00", "host": "a", '
        '"domains": ["\U0001f600' + "x" * 60_000_000 + '"]}',
    ],
    ids=["nested", "flavors", "pairs", "domains", "wide text"],
)
@pytest.mark.parametrize(
    "arguments",
    [["audit", "--xml", "vm.xml", "--flavors", "IN"], ["bench", "compare", "IN", "IN"], ["fleet", "report", "IN.json"]],
    ids=["flavors", "bench", "fleet"],
)
def test_json_that_becomes_more_than_it_is_ends_in_an_error(tmp_path: Path, arguments: list[str], text: str) -> None:
    (tmp_path / "vm.xml").write_text(DOMAIN)
    for name in ("IN", "IN.json"):
        (tmp_path / name).write_text(text)

    assert bounded(*arguments, folder=tmp_path).status in (2, 255)


def test_a_policy_whose_values_refer_to_one_another_ends(tmp_path: Path) -> None:
    many = 2000
    (tmp_path / "conf").write_text(
        f"[libvirt]\nuri = {'$journal.path' * many}\n[journal]\npath = {'$service.html' * many}\n"
        f"[service]\nhtml = {'$service.textfile' * many}\ntextfile = {'x' * 100}\n"
    )

    assert bounded("--config-file", tmp_path / "conf", "policy", "check").status == 255


def test_a_policy_of_thousands_of_rules_is_refused(tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(20_000)]
    rules = "".join(f"[rule:{name}]\npmu = on\nflavor = {name}\n" for name in names)
    (tmp_path / "conf").write_text(f"[policy]\nrules = {','.join(names)}\n{rules}")

    ended = bounded("--config-file", tmp_path / "conf", "policy", "check")

    assert (ended.status, "(config-invalid)" in ended.err) == (255, True)


def test_domain_xml_of_nothing_but_elements_ends(tmp_path: Path) -> None:
    (tmp_path / "vm.xml").write_text("<domain type='kvm'>" + "<a/>" * 1_000_000 + "</domain>")
    for arguments in (["audit", "--xml", "vm.xml"], ["rewrite", "vm.xml"]):
        bounded(*arguments, folder=tmp_path)


def test_hostile_names_are_no_reason_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(PAYLOADS):
        text = "".join(one for one in name if one.isprintable()).replace("&", "&amp;").replace("<", "&lt;")
        (tmp_path / f"{number}.xml").write_text(DOMAIN.replace("web", text or "web"), errors="replace")

    assert main(["audit", "--xml", str(tmp_path), "-f", "json"]) in (1, 2)
    assert "(internal)" not in capsys.readouterr().err


def test_what_the_system_has_no_memory_for_is_no_defect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pmuconf.commands.journal.settings", full)

    assert main(["journal"]) == 255
    assert "(out-of-memory)" in capsys.readouterr().err
