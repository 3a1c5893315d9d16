"""What lies in etc/: units that systemd takes, and a board that asks for nothing that is not there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.metrics import series_names

ETC = Path(__file__).resolve().parents[2] / "etc"
UNITS = sorted((ETC / "systemd").iterdir())

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with commands that this machine has: systemd looks for them."""
    for unit in UNITS:
        text = unit.read_text().replace("/usr/bin/pmuconf ", f"{shutil.which('true')} ")
        (tmp_path / unit.name).write_text(text)
    return [str(tmp_path / unit.name) for unit in UNITS]


@systemd
def test_systemd_finds_nothing_wrong_with_the_units(units: list[str]) -> None:
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, env={"LANG": "C"}
    )
    ours = [line for line in ran.stderr.splitlines() if "pmuconf" in line]
    assert (ran.returncode, ours) == (0, [])


@systemd
def test_it_would_find_something(units: list[str]) -> None:
    unit = next(Path(path) for path in units if path.endswith("pmuconf.service"))
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=strictly"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "strictly" in ran.stderr


@systemd
@pytest.mark.parametrize("name", ["pmuconf.service", "pmuconf-host-facts.service"])
def test_the_units_are_as_exposed_as_the_docs_say_and_no_more(units: list[str], name: str) -> None:
    told = re.search(rf"^\| `{name}` .*\| ([\d.]+) \|$", (ETC.parent / "docs/service.md").read_text(), re.MULTILINE)
    assert told
    unit = next(path for path in units if path.endswith(f"/{name}"))
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", ran.stdout)
    assert found, ran.stderr
    assert float(found.group(1)) <= float(told.group(1)) <= 3


def test_the_units_and_the_defaults_name_the_same_places() -> None:
    from pmuconf.conf import Settings, load

    facts = (ETC / "systemd/pmuconf-host-facts.service").read_text()
    chosen: Settings = load(["/dev/null"])
    assert f"--output {chosen.service.host_facts}" in facts
    assert f"f {chosen.journal} 0600 pmuconf pmuconf" in (ETC / "tmpfiles.d/pmuconf.conf").read_text()
    assert f"f {chosen.journal.with_name('writer.lock')} 0600" in (ETC / "tmpfiles.d/pmuconf.conf").read_text()


def unit_number(name: str) -> int:
    found = re.search(rf"^{name}=(\d+)$", (ETC / "systemd/pmuconf.service").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1))


def test_the_unit_allows_more_threads_than_the_service_can_have() -> None:
    """Those of map(), those of connections (hanging ones included), the loop's, signals', libvirt's events', HTTP's."""
    from pmuconf import conf
    from pmuconf.hypervisor import connection

    (libvirt,) = [opts for group, opts in conf.list_opts() if group.name == "libvirt"]
    (parallel,) = [opt for opt in libvirt if opt.dest == "parallel"]
    others = 4
    most = int(getattr(parallel.type, "max"))  # noqa: B009
    assert most + 2 + connection._HANGING <= connection.MOST
    assert most + connection.MOST + others + 16 <= unit_number("TasksMax")


def test_the_watchdog_sees_within_half_a_minute_and_waits_for_two_signs_of_life() -> None:
    from pmuconf.service import notes

    seconds = unit_number("WatchdogSec")
    assert seconds <= 30
    assert seconds / 3 + 2 * notes.SIGN_SECONDS < seconds


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles")
def test_the_user_and_the_directories_are_made(tmp_path: Path) -> None:
    """By the real tools, in a root of the test's own."""
    (tmp_path / "etc").mkdir()
    for command, folder in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
        options = ["--create"] if folder == "tmpfiles.d" else []
        done = subprocess.run(
            [command, f"--root={tmp_path}", *options, str(ETC / folder / "pmuconf.conf")],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    (user,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("pmuconf:")]
    uid = int(user.split(":")[2])
    journal = (tmp_path / "var/lib/pmuconf/journal.sqlite").stat()
    assert (journal.st_uid, journal.st_mode & 0o777) == (uid, 0o600)
    run = (tmp_path / "run/pmuconf").stat()
    assert (run.st_uid, run.st_mode & 0o777) == (0, 0o755)


def test_the_docs_list_the_metrics_of_the_service() -> None:
    docs = (ETC.parent / "docs/service.md").read_text()
    listed = set(re.findall(r"`(pmuconf_service_\w+)`", docs))
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series_names() if name.startswith("pmuconf_service_")}
    assert listed == {name for name in ours if not name.endswith("_created")}
