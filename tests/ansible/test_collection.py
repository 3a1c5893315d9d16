"""The collection as Ansible's own tools judge it: built, linted, and by ansible-test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.ansible.conftest import BINS, MakeFleet
from tests.support.domains import plain_domain

_TREE = Path(__file__).resolve().parents[2]
newest = pytest.mark.parametrize("bin", BINS[:1], indirect=True, ids=lambda path: path.parent.name)


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        cwd=_TREE / "ansible",
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def ansible_test(bin: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(_TREE / "tests/ansible/ansible-test", bin, *words, **environment)


def test_built_with_the_units_themselves(bin: Path, tmp_path: Path) -> None:
    """They lie in etc/, and the role links to them."""
    ran = run(bin / "ansible-galaxy", "collection", "build", "--output-path", tmp_path, ".")
    assert ran.returncode == 0, ran.stderr
    (built,) = tmp_path.glob("pmuconf-kvm-*.tar.gz")
    with tarfile.open(built) as archive:
        unit = archive.extractfile("roles/pmuconf/files/pmuconf.service")
        assert unit is not None
        assert unit.read() == (_TREE / "etc/systemd/pmuconf.service").read_bytes()
        assert "plugins/modules/domain.py" in archive.getnames()


def test_galaxy_accepts_it(tmp_path: Path) -> None:
    ran = run(_TREE / "tests/ansible/importer", tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list(tmp_path.glob("pmuconf-kvm-*.tar.gz"))) == 1


@newest
def test_linted(bin: Path, tmp_path: Path) -> None:
    there = str(bin.parents[1] / "collections")
    path = f"{bin}:{os.environ['PATH']}"
    home = str(tmp_path)
    ran = run(bin / "ansible-lint", "--nocolor", PATH=path, ANSIBLE_COLLECTIONS_PATH=there, ANSIBLE_HOME=home)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_sanity(bin: Path) -> None:
    ran = ansible_test(bin, "sanity")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_units(bin: Path) -> None:
    ran = ansible_test(bin, "units")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout + ran.stderr


def test_integration(make: MakeFleet, bin: Path, tmp_path: Path) -> None:
    fleet = make(["h"])
    fleet.define({"h": [plain_domain("web1")]})
    config = tmp_path / "integration_config.yml"
    defaults = {"python": sys.executable, "config_file": [str(fleet.root("h") / "pmuconf.conf")]}
    config.write_text(json.dumps({"pmuconf_test_domain": "web1", "pmuconf_test_defaults": defaults}))
    ran = ansible_test(bin, "integration", "domain", PMUCONF_TEST_HOST=str(config))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "All assertions passed" in ran.stdout + ran.stderr
    assert fleet.pmus("h") == {"web1": "default"}
