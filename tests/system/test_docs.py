"""The commands of README.md, docs/install.md and docs/service.md that set a host up, as they stand there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.blocks import Block, blocks_of, succeeded
from tests.system.conftest import Built
from tests.system.machine import Machine

TREE: Final = Path(__file__).resolve().parents[2]
OURS: Final = "tests/system/test_docs.py"
README, INSTALL, SERVICE = (
    [block for block in blocks_of(page) if block.run_by == OURS]
    for page in ("README.md", "docs/install.md", "docs/service.md")
)
CLONE: Final = "/root/pmuconf"
BUILD_PACKAGES: Final = "python3-venv libvirt-dev gcc python3-dev pkg-config"  # as README says, and what they need


def text_of(block: Block, built: Built) -> Block:
    """The block for this Debian: the package for Debian 13 has deb13 in its name, as the page says."""
    mark = "~deb13" if built.suite == "trixie" else "~deb12"
    return Block(block.page, block.line, block.language, tuple(line.replace("~deb12", mark) for line in block.lines))


def typed(machine: Machine, block: Block, folder: str = "/root") -> list[str]:
    """What each command of a block says, typed in a booted machine. Whatever apt asks is answered with its default."""
    said = []
    for command in block.commands():
        ran = machine.result("sh", "-c", f"cd {folder} && {command.text}", text="\n" * 9)
        assert succeeded(command.text, ran.returncode), f"{block.place}: {command.text}\n{ran.stdout}{ran.stderr}"
        said.append(ran.stdout + ran.stderr)
    return said


@pytest.fixture
def clone(built: Built, tmp_path: Path) -> Iterator[Machine]:
    """A machine with a clone of pmuconf and what pip needs to build libvirt-python; not booted."""
    machine = Machine(tmp_path, [built.layer, built.root])
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TREE,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    target = machine.root / CLONE.lstrip("/")
    target.mkdir()
    for name in files.decode().split("\0"):
        if name and (TREE / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / name, target / name)
    machine.prepare("sh", "-euc", f"apt-get -qq update && apt-get -qq install -y {BUILD_PACKAGES}")
    # Whom this machine trusts, pip trusts too.
    machine.prepare("sh", "-c", "printf '[global]\\ncert = /etc/ssl/certs/ca-certificates.crt\\n' >/etc/pip.conf")
    yield machine
    machine.close()


def test_packages(built: Built, tmp_path: Path) -> None:
    """The first two commands, a look, enforcing, an upgrade."""
    first, look, enforce, upgrade, _ = INSTALL
    name = text_of(first, built).commands()[0].text.split("./")[1]
    machine = Machine(tmp_path / "host", [built.layer, built.root])
    machine.prepare("sh", "-euc", "apt-get -qq update && apt-get -qq install -y --no-install-recommends man-db")
    machine.prepare("sh", "-euc", f"cp {built.older}/pmuconf_*.deb /root/{name}")
    machine.prepare("sh", "-euc", f"cp {built.newer}/pmuconf_*.deb /root/pmuconf_NEWER.deb")
    with machine:
        typed(machine, text_of(first, built))
        status, health, manual = typed(machine, look)
        assert "0 VMs" in status
        assert json.loads(health[health.index("{") : health.rindex("}") + 1])["status"] == "ok"
        assert "DESCRIPTION" in manual.upper()
        typed(machine, enforce)
        machine.until("curl -fsS http://127.0.0.1:9754/metrics | grep -q '^pmuconf_service_enforces 1'")
        before = machine.run("dpkg-query -W pmuconf")
        typed(machine, upgrade)
        assert machine.run("dpkg-query -W pmuconf") != before
        assert machine.run("systemctl is-active pmuconf") == "active"


def test_the_plugin_s_package(built: Built, layer_with_nova: list[Path], tmp_path: Path) -> None:
    """Without what it recommends, which would be a whole cloud."""
    *_, plugin = INSTALL
    machine = Machine(tmp_path, layer_with_nova)
    try:
        options = 'APT::Get::Assume-Yes "true"; APT::Install-Recommends "false";'
        machine.prepare("sh", "-euc", f"echo '{options}' >/etc/apt/apt.conf.d/99test; cp {built.newer}/*.deb /root")
        for command in text_of(plugin, built).commands():
            machine.prepare("sh", "-euc", f"cd /root && {command.text}")
        assert machine.prepare("dpkg-query", "-W", "-f", "${db:Status-Status}", "pmuconf-nova") == "installed"
    finally:
        machine.close()


def test_without_packages(clone: Machine, built: Built) -> None:
    """README's environment with pip, and the units set up by hand: a service that is well."""
    (environment,), (units,) = README, SERVICE
    clone.prepare("sh", "-euc", f"cd {CLONE}\n" + "\n".join(command.text for command in environment.commands()))
    clone.boot()
    try:
        typed(clone, units, CLONE)
        assert json.loads(clone.until("curl -fsS http://127.0.0.1:9754/healthz"))["status"] == "ok"
        assert clone.run("systemctl is-active pmuconf-host-facts.timer") == "active"
        assert "host facts" not in clone.run("curl -fsS http://127.0.0.1:9754/healthz")
    finally:
        clone.power_off()
