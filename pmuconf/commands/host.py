"""pmuconf host"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pmuconf.commands.base import Action, Record
from pmuconf.errors import PmuconfError
from pmuconf.report.plain import printable

__all__ = ["RecordHost", "ShowHost"]


class ShowHost(Record):
    """Say whether this host's running kernel has the fast path for VMs without PMU, and what shows it.

    verdict: guarded (the kernel asks whether the VM has a PMU before it counts an instruction); partial (the
    function does, copies of it inlined elsewhere don't); early-out (since 6.18: returns at once while nothing
    counts instructions); no-call (before 5.17: there is nothing to save); unguarded; unknown.

    evidence: observed (read in the running kernel), inferred (read in the file with its build-id) or none.

    Reading the running kernel takes root: without, the file with its build-id is judged.

    Exit status: 0 guarded, early-out or no-call, 1 partial or unknown, 2 unguarded, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_root(parser)
        file = parser.add_mutually_exclusive_group()
        file.add_argument("--module", type=Path, metavar="FILE", help="Judge this kvm.ko (or .gz, .xz, .zst) instead.")
        file.add_argument(
            "--vmlinux", type=Path, metavar="FILE", help="Judge the KVM that is built into this vmlinux with symbols."
        )
        parser.add_argument(
            "--btf",
            type=Path,
            metavar="FILE",
            help="With --module: the BTF of the vmlinux it belongs to, or that file.",
        )
        parser.add_argument(
            "--prove",
            action="store_true",
            help="Count the calls too, by a kprobe of our own thread's, while a micro-VM with its PMU disabled runs a "
            "few hundred CPUID exits. Takes root and changes nothing that lasts.",
        )
        file.add_argument(
            "--prove-qemu",
            type=Path,
            metavar="BINARY",
            help="Say whether this QEMU disables the PMU in KVM, by starting it paused for a moment, without disk or "
            "network. What is seen is kept, by the file's SHA-256, for the audits of this host.",
        )
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return int(bool(args.module or args.vmlinux or args.root != Path("/")))

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        if args.prove_qemu:
            return self._prove_qemu(args)
        try:
            from pmuconf.host import cpu, kvm
            from pmuconf.host.guard import verdict as guard
            from pmuconf.host.root import Root
        except ImportError as error:
            raise PmuconfError(
                f"{error.name} can't be loaded",
                cause="host-missing",
                hint="Install it with 'pip install pmuconf[host]'",
            ) from None
        if args.btf and not args.module:
            raise PmuconfError("--btf goes with --module", cause="usage")
        if args.prove and (args.module or args.vmlinux or args.root != Path("/")):
            raise PmuconfError("--prove asks the running kernel: it goes with no file and no --root", cause="usage")
        root = Root(args.root)
        if args.module or args.vmlinux:
            finding = guard.judge_file(args.module or args.vmlinux, args.btf)
        else:
            finding = guard.judge_host(root)
        self.status = finding.verdict.severity
        record: dict[str, Any] = {
            "verdict": finding.verdict.value,
            "cause": finding.cause,
            "message": finding.message,
            "evidence": finding.evidence.value,
            "source": finding.source,
            "build_id": finding.build_id,
            "enable_pmu_offset": finding.offset,
            "offset_from": finding.offset_from,
            "instructions": list(finding.instructions),
            "copies": {
                "guarded": list(finding.copies.guarded),
                "unguarded": list(finding.copies.unguarded),
                "unread": list(finding.copies.unread),
            },
            "hooks": list(finding.hooks),
            "notes": list(finding.notes),
            "remedy": finding.remedy,
        }
        answer = [f"{finding.verdict.value}: {finding.message}"]
        if not (args.module or args.vmlinux):
            settings, processor = kvm.read_kvm(root), cpu.read_cpu(root)
            like = processor.resembles
            record["kvm"] = {
                "loaded": settings.loaded,
                "vendor_module": settings.vendor_module,
                "enable_pmu": settings.enable_pmu,
                "nested": settings.nested,
                "mediated_pmu": settings.mediated_pmu,
                "release": settings.release,
            }
            record["cpu"] = {
                "vendor": processor.vendor,
                "family": processor.family,
                "model": processor.model,
                "name": processor.name,
                "mitigations": dict(processor.mitigations),
                "resembles": like.value,
                "expected_cycles_per_exit": like.cycles,
            }
            if settings.enable_pmu is False:
                answer.append("kvm.enable_pmu is N: the PMU of every VM on this host is disabled in the kernel")
            elif settings.mediated_pmu:
                answer.append(
                    "KVM uses a mediated PMU: a VM whose PMU is enabled in the kernel has no fast path, even while "
                    "it counts nothing"
                )
            elif settings.mediated_pmu is None and settings.loaded:
                answer.append("whether KVM uses a mediated PMU can't be read: what is said holds without one")
            if like.cycles is not None:
                answer.append(
                    f"this host is like {like.value}, where the guard saved about {like.cycles} cycles per exit: "
                    "an expectation, not a measurement"
                )
        if args.prove:
            from pmuconf.host.prove.guard import prove

            proof = prove(finding)
            record["proof"] = {
                "exits": proof.exits,
                "calls": proof.calls,
                "callee": proof.callee,
                "agrees": proof.agrees,
            }
            answer.append(proof.sentence)
            if proof.agrees is False:
                self.status = max(self.status, 1)
        if finding.remedy:
            answer.append(finding.remedy)
        return [printable(line) for line in answer], record

    def _prove_qemu(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        if args.prove or args.btf or args.root != Path("/"):
            raise PmuconfError("--prove-qemu goes with no other option", cause="usage")
        from pmuconf.host.prove.qemu import prove_qemu
        from pmuconf.host.root import Root
        from pmuconf.host.vms.proofs import FILE, keep

        qemu = prove_qemu(args.prove_qemu)
        answer = "it leaves the PMU enabled in KVM, also for a VM that is to have none: seen"
        if qemu.disables:
            answer = "it disables the PMU in KVM for a VM that is to have none: seen"
        elif qemu.disables is None:
            answer = "it would ask KVM, but this host's does not offer that (kvm.enable_pmu=N): prove it elsewhere"
        sentences = [f"{qemu.path}: {answer}"]
        try:
            keep(Root(), qemu)
        except PmuconfError as error:
            sentences.append(f"that could not be kept in {FILE}: {error.message}")
        self.status = 1 if qemu.disables is None else 0
        record = {
            "path": qemu.path,
            "build_id": qemu.build_id,
            "disables_pmu": qemu.disables,
            "cause": qemu.cause,
            "evidence": qemu.evidence.value,
        }
        return [printable(line) for line in sentences], record


class RecordHost(Action):
    """Write what 'pmuconf host' reads of this host into a new directory, to be judged elsewhere with --root DIR.

    A few MB: symbols and code of KVM, type information, KVM's parameters, the CPU's model and mitigations. Takes root.

    Exit status: 0 recorded, whatever the verdict, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_root(parser)
        parser.add_argument("directory", type=Path, metavar="DIR", help="The directory to make.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        from pmuconf.host.record import record
        from pmuconf.host.root import Root

        finding = record(Root(args.root), args.directory)
        self.app.stdout.write(f"{printable(str(args.directory))}: {finding.verdict.value}\n")
        return 0


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="Read below DIR, a recorded host, instead of /."
    )
