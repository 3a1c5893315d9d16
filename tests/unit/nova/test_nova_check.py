"""pmuconf nova check as a command: which Python it asks and what becomes of the answer. See tests/nova too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.processes import ENVIRONMENT, PMUCONF


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def asked(*arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command, with a PATH of its own if one is given."""
    search = {} if path is None else {"PATH": str(path)}
    return subprocess.run(
        [*PMUCONF, "nova", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, **search},
    )


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_answer_of_nova_s_python_is_passed_on(tmp_path: Path, status: int) -> None:
    nova = script(tmp_path / "python", f'#!/bin/sh\necho "asked: $*"\nexit {status}\n')
    done = asked("--python", nova, "--nova-config-file", "/a", "--nova-config-file", "/b", "--json")
    assert done.returncode == status
    assert done.stdout == "asked: -m pmuconf_nova.check --config-file=/a --config-file=/b --json\n"
    assert done.stderr == ""


def test_nova_s_python_is_that_of_nova_compute(tmp_path: Path) -> None:
    nova = script(tmp_path / "venv/bin/python", '#!/bin/sh\necho "$*"\n')
    script(tmp_path / "bin/nova-compute", f"#!{nova} -I\nimport nova\n")
    done = asked(path=tmp_path / "bin")
    assert (done.returncode, done.stdout) == (0, "-I -m pmuconf_nova.check\n")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ('echo "/x: No module named pmuconf_nova" >&2; exit 1', 2, ("nova-plugin-missing", "pip install")),
        ("echo \"ModuleNotFoundError: No module named 'pmuconf'\" >&2; exit 255", 2, ("nova-plugin-missing",)),
        ("echo \"ModuleNotFoundError: No module named 'nova'\" >&2; exit 1", 255, ("nova-missing", "--python")),
        ("echo broken >&2; exit 255", 255, ("nova-check", "broken")),
        ("exit 7", 255, ("nova-check", "it said nothing")),
        ("kill -9 $$", 255, ("nova-check",)),
    ],
)
def test_what_is_in_the_way_is_said(tmp_path: Path, body: str, status: int, words: tuple[str, ...]) -> None:
    done = asked("--python", script(tmp_path / "python", f"#!/bin/sh\n{body}\n"))
    assert done.returncode == status
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_without_nova_compute_it_says_how_to_go_on(tmp_path: Path) -> None:
    done = asked(path=tmp_path)
    assert done.returncode == 255
    assert "nova-missing" in done.stderr
    assert "python3 -m pmuconf_nova.check" in done.stderr


def test_a_nova_compute_that_is_no_script(tmp_path: Path) -> None:
    script(tmp_path / "bin/nova-compute", "\x7fELF")
    done = asked(path=tmp_path / "bin")
    assert done.returncode == 255
    assert "nova-python" in done.stderr


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    done = asked("--python", tmp_path / "none")
    assert done.returncode == 255
    assert "nova-python" in done.stderr
    assert os.fspath(tmp_path / "none") in done.stderr
