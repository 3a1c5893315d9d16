"""A fleet on one machine: hosts with ``connection: local``, each with an embedded libvirt driver of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.functional import oracle
from tests.support import embedded

__all__ = ["Fleet", "Played"]

_TREE = Path(__file__).resolve().parents[2]
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """What ansible-playbook said: its exit status and text, and the numbers of its recap by host."""

    status: int
    text: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        words = ("ok", "changed", "unreachable", "failed")
        return {found[0]: dict(zip(words, map(int, found[1:]))) for found in _RECAP.findall(self.text)}

    def by_host(self, word: str) -> dict[str, int]:
        """One number of the recap for each host."""
        return {host: numbers[word] for host, numbers in self.recap.items()}


class Fleet:
    """Hosts below one folder, whose name must be short: libvirt's sockets are there."""

    def __init__(self, folder: Path, names: Sequence[str], *, bin: Path) -> None:
        self.folder, self.names, self._bin = folder, list(names), bin
        self._cache = folder / "cache"
        for name in names:
            self.root(name).mkdir(parents=True)
            self.configure(name)
        self.inventory = folder / "inventory.json"
        self.write_inventory({name: {} for name in names})

    def root(self, host: str) -> Path:
        """Of the host's driver."""
        return self.folder / host

    def configure(self, host: str, policy: str = "", *, uri: str = "") -> None:
        """Write the host's configuration; its journal is its own, and so is its driver unless a URI is given."""
        uri = uri or f"qemu:///embed?root={self.root(host)}"
        text = f"[libvirt]\nuri = {uri}\n\n[journal]\npath = {self.root(host)}/journal/journal.sqlite\n\n{policy}"
        (self.root(host) / "pmuconf.conf").write_text(text)

    def write_inventory(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """The hosts with variables of their own."""
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "pmuconf_become": False,
            "pmuconf_defaults": {"config_file": [f"{self.folder}/{{{{ inventory_hostname }}}}/pmuconf.conf"]},
        }
        self.inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))

    def define(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Define these domains on these hosts."""
        first, *others = texts.items()
        self._ask(first[0], "define", first[1])  # asks QEMU what it can do, for all
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda item: self._ask(item[0], "define", item[1]), others))

    def undefine(self, host: str, name: str) -> None:
        """Undefine this domain."""
        self._ask(host, "undefine", [name])

    def start(self, host: str, name: str) -> None:
        """Start this domain."""
        self._ask(host, "start", [name])

    def pmus(self, host: str) -> dict[str, str]:
        """The PMU state of the next boot of its domains, by the files that libvirt has them in."""
        files = sorted((self.root(host) / "etc/qemu").glob("*.xml"))
        return {file.stem: oracle.pmu(file.read_text()) for file in files}

    def xml(self, host: str, name: str) -> str:
        """Its next boot."""
        return self._ask(host, "show", [])[name]

    def spoil(self, host: str, name: str) -> None:
        """Let every define of this domain fail: libvirt first writes a file of this name, and can't."""
        (self.root(host) / f"etc/qemu/{name}.xml.new").mkdir()

    def mend(self, host: str, name: str) -> None:
        """Let it be defined again."""
        (self.root(host) / f"etc/qemu/{name}.xml.new").rmdir()

    def play(self, tasks: Iterable[Mapping[str, Any]], *words: str) -> Played:
        """Run these tasks on all hosts."""
        play = {
            "hosts": "all",
            "gather_facts": False,
            "module_defaults": {"group/pmuconf.kvm.pmuconf": "{{ pmuconf_defaults }}"},
            "tasks": list(tasks),
        }
        file = self.folder / "play.json"
        file.write_text(json.dumps([play]))
        return self.run(str(file), *words)

    def run(self, playbook: str, *words: str) -> Played:
        """Run a playbook: a file, or one of the collection's by its name."""
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self._bin.parents[1] / "collections"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_DEPRECATION_WARNINGS": "0",
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "LIBVIRT_LOG_OUTPUTS": f"3:file:{self.folder}/libvirt.log",
            "PATH": f"{self.folder}/bin:{self._bin}:{os.environ['PATH']}",
            "PYTHONPATH": "",
        }
        command = [str(self._bin / "ansible-playbook"), "-i", str(self.inventory), "--forks", "4", playbook, *words]
        ran = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL
        )
        return Played(ran.returncode, ran.stdout + ran.stderr)

    def plan(self, reports: Path) -> dict[str, Any]:
        """The plan that pmuconf makes of these reports."""
        program = Path(sys.executable).with_name("pmuconf")
        ran = subprocess.run([str(program), "fleet", "plan", str(reports)], capture_output=True, text=True)
        assert ran.returncode in (0, 1, 2), ran.stderr
        made: dict[str, Any] = json.loads(ran.stdout)
        return made

    def close(self) -> None:
        """End what still runs."""
        for name in self.names:
            embedded.destroy_all(self.root(name))

    def _ask(self, host: str, command: str, texts: Sequence[str]) -> dict[str, str]:
        words = [sys.executable, "-m", "tests.ansible.define", str(self.root(host)), str(self._cache), command]
        ran = subprocess.run(words, input=json.dumps(texts), capture_output=True, text=True, cwd=_TREE)
        assert ran.returncode == 0, ran.stderr
        answer: dict[str, str] = json.loads(ran.stdout)
        return answer
