"""The Debian packages on Debian 12 and 13 as systemd runs them: installed, used, upgraded, removed, purged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

import pmuconf
from tests.system.conftest import Built
from tests.system.machine import Machine

CONFIGURATION: Final = "/etc/pmuconf/pmuconf.conf"
JOURNAL: Final = "/var/lib/pmuconf/journal.sqlite"
DOMAIN: Final = """\
<domain type='qemu'>
  <name>web1</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
</domain>
"""
NOT_OURS: Final = (
    "/proc /sys /dev /run /tmp /srv /root /var/log /var/tmp",
    "/var/cache/apt /var/lib/apt /var/cache/debconf /var/lib/dpkg",  # of apt and dpkg, for every package
    "/var/cache/libvirt /var/lib/libvirt /etc/libvirt /etc/xml",
)
"""Folders that change by themselves, or with any package."""


def files(machine: Machine) -> set[str]:
    """Each file with its kind, mode and owner; those in /etc with their content."""
    pruned = " -o ".join(f"-path {path}" for path in " ".join(NOT_OURS).split())
    listed = machine.run(f"find / -xdev \\( {pruned} \\) -prune -o -printf '%p %y %m %u %g\\n'")
    # Without the backups that useradd and userdel make, the cache of the linker, and what xml-core keeps of docutils.
    sums = machine.run("find /etc -type f ! -name '*-' ! -name ld.so.cache -exec sha256sum {} +").splitlines()
    return {*listed.splitlines(), *(line for line in sums if not {"libvirt", "xml"} & set(line.split("/")))}


def install(machine: Machine, folder: str) -> str:
    return machine.run(f"apt-get -qq install -y {folder}/pmuconf_*.deb -o Dpkg::Options::=--force-confold 2>&1")


def test_the_commands_work_on_the_distribution_s_own_packages(installed: Machine) -> None:
    assert installed.run("pmuconf --version") == f"pmuconf {pmuconf.__version__}"
    installed.write("/root/web1.xml", DOMAIN)
    installed.run("virsh define /root/web1.xml")
    audit = installed.result("pmuconf audit -f json")
    assert (audit.returncode, json.loads(audit.stdout)[0]["name"]) == (2, "web1"), audit.stderr
    assert installed.run("pmuconf policy check").splitlines()[0] == f"valid: {CONFIGURATION}"
    assert installed.result("pmuconf host").returncode in (1, 2), "a verdict, and no error"
    for page in ("1 pmuconf", "5 pmuconf.conf", "7 pmuconf"):
        section, name = page.split()
        assert installed.run(f"zcat /usr/share/man/man{section}/{name}.{section}.gz | head -c 200000").count(".SH") > 2


def test_upgraded_removed_and_purged_it_leaves_the_machine_as_it_was(machine: Machine, built: Built) -> None:
    machine.run("virsh list")  # libvirt makes its folders when it is first used
    before = files(machine)

    install(machine, built.older)
    assert machine.run("systemctl is-enabled pmuconf pmuconf-host-facts.timer", check=False) == "disabled\ndisabled"
    assert machine.run("systemctl is-active pmuconf", check=False) == "inactive"
    machine.write("/root/web1.xml", DOMAIN)
    machine.run("virsh define /root/web1.xml")
    machine.write(CONFIGURATION, "[policy]\ndefault = off\n\n[service]\ninterval = 60\n")
    machine.run("systemctl enable --now pmuconf")
    started = machine.run("systemctl show -P MainPID pmuconf")
    machine.run("pmuconf apply")

    install(machine, built.newer)
    assert "interval = 60" in machine.run(f"cat {CONFIGURATION}")
    assert machine.run("systemctl is-active pmuconf") == "active"
    assert machine.run("systemctl show -P MainPID pmuconf") != started
    assert "web1" in machine.run("pmuconf journal -f value")

    removed = machine.run("apt-get -qq remove -y pmuconf 2>&1")
    assert JOURNAL in removed
    assert machine.run(f"stat -c %U {JOURNAL}") == "pmuconf"
    assert machine.run("systemctl is-active pmuconf", check=False) in ("inactive", "failed")

    purged = machine.run("apt-get -qq purge -y --autoremove pmuconf 2>&1")
    assert JOURNAL in purged
    machine.run("virsh undefine web1")
    after = files(machine)
    assert sorted(after ^ before) == []
    named = machine.run("find / -xdev -path /srv -prune -o -name '*pmuconf*' -print; find /run -name '*pmuconf*'")
    assert named == ""


def test_zsh_finds_what_completes_them(installed: Machine) -> None:
    """tests/unit/commands/test_completion.py tries it in a zsh."""
    assert installed.run("head -1 /usr/share/zsh/vendor-completions/_pmuconf") == "#compdef pmuconf"


def test_bash_completes_commands_and_options(installed: Machine) -> None:
    for typed, shown in (("pmuconf aud", "pmuconf audit"), ("pmuconf audit --sa", "pmuconf audit --sample")):
        bash = "bash --noprofile --rcfile /usr/share/bash-completion/bash_completion -i"
        with installed.terminal(bash) as terminal:
            terminal.until("# ")
            terminal.write(f"{typed}\t")
            terminal.until(shown)


@pytest.mark.parametrize("name", ["commands", "service"])
def test_debian_s_own_tests_of_the_package_pass(installed: Machine, name: str) -> None:
    """As autopkgtest runs them; tests/system/test_nova.py has the third."""
    installed.write("/root/test", (Path(__file__).resolve().parents[2] / "debian/tests" / name).read_text())
    installed.run("AUTOPKGTEST_TMP=$(mktemp -d) sh /root/test")
