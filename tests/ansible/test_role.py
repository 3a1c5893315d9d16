"""The role in a root of the test's own, without systemd: twice the same, refused whole, taken away whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pmuconf.conf import load
from pmuconf.policy import Decision
from tests.ansible.conftest import BINS, MakeFleet
from tests.ansible.fleet import Fleet, Played

_TREE = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.parametrize("bin", BINS[:1], indirect=True, ids=lambda path: path.parent.name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pmuconf as it is now."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pmuconf", "setup.cfg", "pyproject.toml", "README.md"):
        (tree / name).symlink_to(_TREE / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, tree], check=True)
    (built,) = folder.glob("*.whl")
    return built


class Role:
    """The role with all its paths below one root."""

    def __init__(self, fleet: Fleet, wheel: Path) -> None:
        self.root = fleet.folder / "root"
        self._fleet = fleet
        # An environment that has what pmuconf needs spares building libvirt-python. But not pmuconf itself, which pip
        # would else find installed already.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.root / "venv")], check=True)
        site = next((self.root / "venv/lib").glob("python*/site-packages"))
        for ours in [Path(path) for path in sys.path if path.endswith("site-packages")]:
            for found in ours.iterdir():
                if not found.name.startswith(("pmuconf", "__editable__")):
                    (site / found.name).symlink_to(found)
        pip = self.root / "venv/bin/pip"
        pip.write_text(f'#!/bin/sh\nexec {self.root}/venv/bin/python -m pip "$@"\n')
        pip.chmod(0o755)
        (self.root / "nova.conf").write_text("[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n")
        self.variables: dict[str, Any] = {
            "pmuconf_wheel": str(wheel),
            "pmuconf_pip_extra_args": "--no-deps",
            "pmuconf_manage_packages": False,
            "pmuconf_use_systemd": False,
            "pmuconf_nova_conf": f"{self.root}/nova.conf",
            "pmuconf_nova_pip": "/bin/false",
        }
        for name, path in {
            "venv": "venv",
            "command": "bin/pmuconf",
            "config_file": "etc/pmuconf.conf",
            "unit_dir": "units",
            "sysusers_file": "sysusers/pmuconf.conf",
            "tmpfiles_file": "tmpfiles/pmuconf.conf",
            "polkit_file": "polkit/50-pmuconf.rules",
            "modprobe_file": "modprobe.conf",
            "nova_provider_file": "provider.yaml",
            "state_dir": "var",
        }.items():
            self.variables[f"pmuconf_{name}"] = str(self.root / path)
        (self.root / "bin").mkdir()

    def play(self, *words: str, **variables: Any) -> Played:
        """Run it."""
        play = [{"hosts": "all", "gather_facts": False, "roles": [{"role": "pmuconf.kvm.pmuconf"}]}]
        file = self._fleet.folder / "role.json"
        file.write_text(json.dumps(play))
        told = json.dumps({**self.variables, **variables})
        return self._fleet.run(str(file), "-e", told, *words)

    def files(self) -> set[str]:
        """What there is, but for the inside of the virtual environment."""
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        return {name for name in found if not name.startswith("venv/")} | {"venv"} & set(os.listdir(self.root))


@pytest.fixture
def role(make: MakeFleet, wheel: Path) -> Role:
    return Role(make(["h"]), wheel)


def test_there_and_gone(role: Role) -> None:
    rules = [
        {"name": "profiling", "pmu": True, "flavor": ["prof.*", "perf"], "reason": "costs $5\nand more"},
        {"name": "kept", "pmu": "keep", "domain": ["db*"]},
    ]
    wanted = {"pmuconf_rules": rules, "pmuconf_settings": {"libvirt": {"parallel": 3}, "service": {"listen": ""}}}
    check = role.play("--check", **wanted)
    assert check.status == 0, check.text
    assert "etc/pmuconf.conf" not in role.files()
    off = {"pmuconf_kvm_pmu_off": True, "pmuconf_kvm_pmu_off_check": False}
    first = role.play(**wanted, **off)
    assert first.status == 0, first.text
    assert role.files() == {
        *("venv", "bin/pmuconf", "etc/pmuconf.conf", "modprobe.conf", "nova.conf"),
        *("units/pmuconf.service", "units/pmuconf-host-facts.service", "units/pmuconf-host-facts.timer"),
        *("sysusers/pmuconf.conf", "tmpfiles/pmuconf.conf", "polkit/50-pmuconf.rules"),
    }
    chosen = load([str(role.root / "etc/pmuconf.conf")])
    assert [rule.name for rule in chosen.policy.rules] == ["profiling", "kept"]
    assert chosen.policy.rules[0].decision is Decision.ON
    assert chosen.policy.rules[0].flavor == ("prof.*", "perf")
    assert chosen.policy.rules[0].reason == "costs $5 and more"
    assert (chosen.parallel, chosen.service.listen, chosen.unused_rules) == (3, None, ())
    unit = (role.root / "units/pmuconf.service").read_text()
    assert f"ExecStart={role.root}/bin/pmuconf serve\n" in unit
    assert "unix.manage" not in (role.root / "polkit/50-pmuconf.rules").read_text()
    assert "options kvm enable_pmu=N\n" in (role.root / "modprobe.conf").read_text()
    version = subprocess.run([role.root / "bin/pmuconf", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("pmuconf ")

    again = role.play(**wanted, **off)
    assert (again.status, again.by_host("changed")) == (0, {"h": 0}), again.text

    refused = role.play(pmuconf_settings={"policy": {"default": "maybe"}})
    assert refused.status != 0
    assert "config-invalid" in refused.text
    assert load([str(role.root / "etc/pmuconf.conf")]).parallel == 3, "the old one stays"

    enforced = role.play(**wanted, pmuconf_mode="enforce")
    assert enforced.status == 0, enforced.text
    assert "unix.manage" in (role.root / "polkit/50-pmuconf.rules").read_text()
    assert not (role.root / "modprobe.conf").exists()

    gone = role.play(pmuconf_state="absent")
    assert gone.status == 0, gone.text
    assert role.files() == {"nova.conf"}
    gone = role.play(pmuconf_state="absent")
    assert (gone.status, gone.by_host("changed")) == (0, {"h": 0}), gone.text


def test_a_pmu_is_taken_from_all_only_if_nobody_is_to_have_one(role: Role) -> None:
    wanted = {
        "pmuconf_kvm_pmu_off": True,
        "pmuconf_rules": [{"name": "profiling", "pmu": "on", "flavor": ["prof.*"]}],
        "pmuconf_settings": {"libvirt": {"uri": f"qemu:///embed?root={role.root}/host"}},
    }
    (role.root / "host").mkdir()
    refused = role.play(**wanted)
    assert refused.status != 0
    assert "rule-not-off" in refused.text or "such a VM may come here" in refused.text
    assert not (role.root / "modprobe.conf").exists()
    done = role.play(**wanted, pmuconf_kvm_pmu_off_elsewhere=["prof*"])
    assert done.status == 0, done.text
    assert "options kvm enable_pmu=N\n" in (role.root / "modprobe.conf").read_text()


def test_nova(role: Role, tmp_path: Path) -> None:
    """With a pip that only writes down what it is asked for."""
    said = tmp_path / "said"
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >>{said}\ncase $1 in freeze|list) echo pmuconf==1; esac\n')
    pip.chmod(0o755)
    conf = role.root / "nova.conf"
    before = conf.read_text()
    nova = {"pmuconf_nova": True, "pmuconf_nova_pip": str(pip), "pmuconf_service": False}
    ran = role.play(**nova)
    assert ran.status == 0, ran.text
    assert "install --no-deps --break-system-packages pmuconf pmuconf-nova" in said.read_text()
    assert conf.read_text() == "[DEFAULT]\ncompute_driver = pmuconf.LibvirtDriver\n"
    assert "Restart nova-compute" in ran.text
    ran = role.play(pmuconf_nova_pip=str(pip))
    assert ran.status == 0, ran.text
    assert conf.read_text() == before
    assert "uninstall -y" in said.read_text()
