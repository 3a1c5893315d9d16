"""The machine from which Ansible reaches the others, by SSH."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.hosts.lan import Lan

__all__ = ["Controller", "Played"]

_TREE: Final = Path(__file__).resolve().parents[2]
_RECAP: Final = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """What ansible-playbook said."""

    status: int
    text: str

    @property
    def changed(self) -> dict[str, int]:
        """The number of changes by host."""
        return {host: int(changed) for host, changed, _, _ in _RECAP.findall(self.text)}


class Controller:
    """Ansible, with hosts of a network as its inventory.

    :param bin: the programs of an ansible-core.
    :param hosts: with variables of their own.
    """

    def __init__(self, lan: Lan, bin: Path, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        self._lan, self._bin, self.hosts = lan, bin, list(hosts)
        self.folder = Path(tempfile.mkdtemp(prefix="controller-", dir=lan.folder))
        collections = self.folder / "collections/ansible_collections/pmuconf"
        collections.mkdir(parents=True)
        (collections / "kvm").symlink_to(_TREE / "ansible")
        told = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(lan.key),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        listed = {host: {"ansible_host": lan.addresses[host], **own} for host, own in hosts.items()}
        (self.folder / "inventory.json").write_text(json.dumps({"all": {"hosts": listed, "vars": told}}))

    def role(self, *words: str, **variables: Any) -> Played:
        """Play the role on all hosts."""
        play = {"hosts": "all", "roles": [{"role": "pmuconf.kvm.pmuconf"}]}
        file = self.folder / "role.json"
        file.write_text(json.dumps([play]))
        return self.play(str(file), "-e", json.dumps(variables), *words)

    def play(self, playbook: str, *words: str) -> Played:
        """Play a file, or a playbook of the collection by its name."""
        ran = self._lan.run(
            self._bin / "ansible-playbook",
            "-i",
            self.folder / "inventory.json",
            playbook,
            *words,
            environment={
                "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                "ANSIBLE_HOME": str(self.folder / "home"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),  # another run has the same addresses
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_DEPRECATION_WARNINGS": "0",
                "ANSIBLE_LOCALHOST_WARNING": "0",
                "PYTHONPATH": "",
            },
        )
        return Played(ran.returncode, ran.stdout + ran.stderr)

    def pmuconf(self, *words: str | Path) -> str:
        """What a command of pmuconf prints that reads the hosts' reports on this machine."""
        ran = self._lan.run(
            sys.executable, "-m", "pmuconf.commands.main", *words, environment={"PYTHONPATH": str(_TREE)}
        )
        assert ran.returncode in (0, 1, 2), ran.stderr
        return ran.stdout
