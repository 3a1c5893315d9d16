"""pmuconf nova check as a command: which Python it asks and what becomes of the answer. See tests/nova too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.processes import ENVIRONMENT, PMUCONF


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def python_with(folder: Path, files: dict[str, str]) -> Path:
    """A Python in whose environment there are these files and nothing else."""
    for name, text in files.items():
        script(folder / "site" / name, text)
    return script(
        folder / "python",
        f'#!/bin/sh\nunset PYTHONPATH\nPYTHONPATH={folder}/site exec {sys.executable} -S "$@"\n',
    )


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
    nova = python_with(
        tmp_path,
        {
            **dict.fromkeys(("pmuconf/__init__.py", "nova/__init__.py", "pmuconf_nova/__init__.py"), ""),
            "pmuconf_nova/check.py": f"import sys\nprint('asked:', __name__, *sys.argv[1:])\nsys.exit({status})\n",
        },
    )
    done = asked("--python", nova, "--nova-config-file", "/a", "--nova-config-file", "/b", "--json")
    assert done.returncode == status
    assert done.stdout == "asked: __main__ --config-file=/a --config-file=/b --json\n"
    assert done.stderr == ""


def test_nova_s_python_is_that_of_nova_compute(tmp_path: Path) -> None:
    nova = script(tmp_path / "venv/bin/python", '#!/bin/sh\necho "$1 $2"\n')
    script(tmp_path / "bin/nova-compute", f"#!{nova} -I\nimport nova\n")
    done = asked(path=tmp_path / "bin")
    assert (done.returncode, done.stdout) == (0, "-I -c\n")


PLUGIN = {"pmuconf/__init__.py": "", "pmuconf_nova/__init__.py": "", "pmuconf_nova/check.py": "import nova\n"}


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({"nova/__init__.py": ""}, 2, ("nova-plugin-missing", "pip install")),
        ({"nova/__init__.py": "", "pmuconf/__init__.py": ""}, 2, ("nova-plugin-missing",)),
        (PLUGIN, 255, ("nova-missing", "--python")),
        (
            {**PLUGIN, "nova/__init__.py": "", "pmuconf_nova/check.py": "raise SystemExit('No module named pmuconf')"},
            1,
            (),
        ),
    ],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, files: dict[str, str], status: int, words: tuple[str, ...]
) -> None:
    """By looking for it, not by what an error says: in the last case, all packages are there."""
    done = asked("--python", python_with(tmp_path, files))
    assert done.returncode == status, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [("echo broken >&2; exit 255", ("broken",)), ("exit 7", ("there was no message",)), ("kill -9 $$", ())],
)
def test_a_check_that_can_t_run_is_an_error(tmp_path: Path, body: str, words: tuple[str, ...]) -> None:
    done = asked("--python", script(tmp_path / "python", f"#!/bin/sh\n{body}\n"))
    assert done.returncode == 255
    for word in ("nova-check", *words):
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
