"""Measure the module pmuconf.kvm.domain against community.libvirt's virt, whole plays on the same domains.

``python -m tests.ansible.bench BIN PEER``, with what ``tests/ansible/environment`` prints for 2.19 and
for community.libvirt.
The two run in turn, pair by pair: ours writes off, the peer takes the XML, puts on into it and defines it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import libvirt

from tests.bench.table import machine, write
from tests.functional import oracle
from tests.support.daemon import Daemon
from tests.support.domains import plain_domain

__all__ = ["main"]

_AIM = 0.1


def main() -> int:
    """Measure, show, and write where --write says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.ansible.bench", description=__doc__)
    parser.add_argument("bin", type=Path, metavar="BIN", help="Where ansible-playbook is.")
    parser.add_argument("peer", type=Path, metavar="PEER", help="Beside ansible_collections with community.libvirt.")
    parser.add_argument("--domains", type=int, default=20, metavar="N", help="How many domains the host has (20).")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="How many pairs (3).")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Put the table into this Markdown file.")
    args = parser.parse_args()
    with Daemon() as daemon, tempfile.TemporaryDirectory() as folder:
        bench = _Bench(args.bin, args.peer, daemon, Path(folder), args.domains)
        bench.ours(), bench.theirs()  # once in vain, for caches
        pairs = []
        for run in range(args.runs):
            pairs.append((bench.ours(), bench.theirs()))
            print(f"run {run + 1}: {pairs[-1][0]:.2f} s, the peer {pairs[-1][1]:.2f} s", file=sys.stderr)
        about = bench.machine()
    text = _table(
        pairs, args.domains, f"python -m tests.ansible.bench --domains {args.domains} --runs {args.runs}", about
    )
    print(text, end="")
    if args.write is not None:
        write(args.write, text, "tests.ansible.bench")
    return 0


class _Bench:
    """The two plays on one daemon; each gives the seconds that it took."""

    def __init__(self, bin: Path, peer: Path, daemon: Daemon, folder: Path, count: int) -> None:
        self._bin, self._peer, self._uri, self._folder = bin, peer, daemon.uri, folder
        self._connection = libvirt.open(daemon.uri)
        self._names = [f"vm{number:03}" for number in range(count)]
        for name in self._names:
            self._connection.defineXML(plain_domain(name, pmu="on"))
        config = folder / "pmuconf.conf"
        config.write_text(f"[libvirt]\nuri = {daemon.uri}\n\n[journal]\npath = {folder}/journal/journal.sqlite\n")
        self._apply: list[dict[str, Any]] = [{"pmuconf.kvm.domain": {"config_file": [str(config)], "max_changes": 0}}]

    def ours(self) -> float:
        """All of them off."""
        return self._play(self._apply, "off")

    def theirs(self) -> float:
        """All of them on again."""
        xml = "{{ item.get_xml | regex_replace(\"<pmu state='off'/>\", \"<pmu state='on'/>\") }}"
        virt = "community.libvirt.virt"
        tasks = [
            {
                virt: {"uri": self._uri, "command": "get_xml", "name": "{{ item }}"},
                "loop": self._names,
                "register": "read",
            },
            {
                virt: {"uri": self._uri, "command": "define", "xml": xml},
                "loop": "{{ read.results }}",
                "loop_control": {"label": "{{ item.item }}"},
            },
        ]
        return self._play(tasks, "on")

    def machine(self) -> str:
        """The machine, and Ansible's version."""
        said = subprocess.run([self._bin / "ansible-playbook", "--version"], capture_output=True, text=True, check=True)
        version = said.stdout.splitlines()[0].partition("[")[2].rstrip("]")
        return f"{machine(self._connection)}, ansible-{version}, load {os.getloadavg()[0]:.1f}"

    def _play(self, tasks: list[dict[str, Any]], after: str) -> float:
        file = self._folder / "play.json"
        file.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        words = ["-i", "host,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", str(file)]
        collections = f"{self._bin.parents[1] / 'collections'}:{self._peer.parent}"
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": collections, "ANSIBLE_HOME": str(self._folder)}
        begin = time.perf_counter()
        ran = subprocess.run(
            [self._bin / "ansible-playbook", *words], env=environment, capture_output=True, text=True, cwd=self._folder
        )
        seconds = time.perf_counter() - begin
        states = {oracle.pmu(self._connection.lookupByName(name).XMLDesc(2)) for name in self._names}
        if ran.returncode or states != {after}:
            raise RuntimeError(f"not all are {after}: {ran.stdout}{ran.stderr}")
        return seconds


def _table(pairs: list[tuple[float, float]], count: int, command: str, about: str) -> str:
    ratios = [ours / theirs for ours, theirs in pairs]
    verdict = "met" if median(ratios) <= _AIM else "**missed**"
    ours, theirs = (median(side) for side in zip(*pairs))
    return (
        f"`{command}` on {about}.\n\n"
        "| what | ratio (lowest to highest) | aim | pmuconf.kvm.domain | get_xml + define |\n|---|---|---|---|---|\n"
        f"| a play over {count} domains | **{median(ratios):.3f}** ({min(ratios):.3f} to {max(ratios):.3f}) "
        f"| {_AIM:g}, {verdict} | {ours:.2f} s | {theirs:.2f} s |\n"
        f"| a domain of it | | | {ours / count * 1000:.0f} ms | {theirs / count * 1000:.0f} ms |\n"
    )


if __name__ == "__main__":
    sys.exit(main())
