"""The command ``pmuconf qemu prove``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pmuconf.access import host_modules
from pmuconf.commands.base import Record
from pmuconf.errors import PmuconfError
from pmuconf.hostfacts import does_to_pmu
from pmuconf.report.plain import printable

__all__ = ["ProveQemu", "prove"]


class ProveQemu(Record):
    """Say whether a QEMU disables the PMU in KVM for a VM that must not have one, by starting it.

    It is started twice at most, paused, without disk or network, for less than a second. The answer is kept by the
    file's SHA-256, and the audits of this host use it. Requires /dev/kvm, and root or strace.

    Exit status: 0 an answer, whatever it is, 1 this host's KVM offers no such call, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("binary", type=Path, metavar="BINARY", help="Such as /usr/bin/qemu-system-x86_64.")
        return parser

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        self.status, sentences, record = prove(args.binary)
        return sentences, record


def prove(binary: Path) -> tuple[int, list[str], dict[str, Any]]:
    """Prove a QEMU and keep the answer: the exit status, the sentences and the record.

    :raises PmuconfError: as prove_qemu().
    """
    with host_modules():
        from pmuconf.host.prove.qemu import prove_qemu
        from pmuconf.host.root import Root
        from pmuconf.host.vms.proofs import FILE, keep

    qemu = prove_qemu(binary)
    answer = f"{does_to_pmu(disables=qemu.disables)} for a VM that must not have one: seen"
    if qemu.disables is None:
        answer = "asks for what this host's KVM does not offer (kvm.enable_pmu=N): prove it on another host"
    sentences = [f"{qemu.path} {answer}"]
    try:
        keep(Root(), qemu)
    except PmuconfError as error:
        sentences.append(f"the answer can't be kept in {FILE}: {error.message}")
    record = {
        "path": qemu.path,
        "build_id": qemu.build_id,
        "disables_pmu": qemu.disables,
        "cause": qemu.cause,
        "evidence": qemu.evidence.value,
    }
    return int(qemu.disables is None), [printable(sentence) for sentence in sentences], record
