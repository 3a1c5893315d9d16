"""The commands ``pmuconf host ...``: what this host's kernel does, what a file does, and what to take along of both."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pmuconf.access import host_modules, surveyor
from pmuconf.commands.base import Action, Record, settings, warning
from pmuconf.commands.qemu import prove
from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.report.kernel import KernelAnswer
from pmuconf.report.plain import printable

if TYPE_CHECKING:
    from pmuconf.host.prove.guard import Proof
    from pmuconf.host.root import Root
    from pmuconf.hostfacts import GuardFinding

__all__ = ["JudgeFile", "RecordHost", "ShowHost", "WriteFacts"]

_HERE: Final = Path("/")


class _Judgement(Record):
    """Shows the verdict on a kernel."""

    def show(self, answer: KernelAnswer) -> tuple[Sequence[str], dict[str, Any]]:
        """The answer in both forms; its severity becomes the exit status."""
        self.status = answer.severity
        return [printable(sentence) for sentence in answer.sentences()], answer.record()


class ShowHost(_Judgement):
    """Say whether this host's running kernel has the fast path for VMs without a PMU, and what shows it.

    verdict: guarded (the kernel tests whether the VM has a PMU before it counts an instruction); partial (the
    function tests it, some copies of it inlined elsewhere don't); early-out (since 6.18: the kernel returns at once
    while nothing counts instructions); no-call (before 5.17: there is nothing to save); unguarded; unknown.

    evidence: observed (read in the running kernel), inferred (read in the file with its build-id) or none.

    Reading the running kernel requires root. Otherwise the file with its build-id is judged.

    Exit status: 0 guarded, early-out or no-call, 1 partial or unknown, 2 unguarded, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_root(parser)
        parser.add_argument(
            "--prove",
            action="store_true",
            help="Count the calls too: a micro-VM with its PMU disabled makes a few hundred CPUID exits, and a kprobe "
            "counts the calls of its thread. Requires root, and changes nothing that lasts.",
        )
        # The options of 0.1: each is a command of its own now.
        file = parser.add_mutually_exclusive_group()
        for option in ("--module", "--vmlinux", "--prove-qemu"):
            file.add_argument(option, type=Path, help=argparse.SUPPRESS)
        parser.add_argument("--btf", type=Path, help=argparse.SUPPRESS)
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return int(bool(args.module or args.vmlinux or args.root != _HERE))

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        _refuse_mixtures(args)
        if args.prove_qemu:
            warning(self)("--prove-qemu is a command of its own now: pmuconf qemu prove BINARY")
            self.status, sentences, record = prove(args.prove_qemu)
            return sentences, record
        if args.module or args.vmlinux:
            warning(self)("--module and --vmlinux are a command of their own now: pmuconf host judge FILE")
            return self.show(_of_file(args.module or args.vmlinux, args.btf))
        return self.show(_of_host(args.root, prove_it=args.prove))


def _refuse_mixtures(args: argparse.Namespace) -> None:
    """Refuse options that mean different things to be looked at.

    :raises PmuconfError: usage.
    """
    elsewhere = args.module or args.vmlinux or args.root != _HERE
    if args.prove_qemu and (args.prove or args.btf or args.root != _HERE):
        raise PmuconfError("--prove-qemu goes with no other option", cause="usage")
    if args.btf and not args.module:
        raise PmuconfError("--btf goes with --module", cause="usage")
    if args.prove and elsewhere:
        raise PmuconfError("--prove asks the running kernel: it goes with no file and no --root", cause="usage")


class JudgeFile(_Judgement):
    """Say whether a kernel has the fast path for VMs without a PMU, from its file or from a host's record.

    FILE is a module kvm.ko (or .gz, .xz, .zst), or a vmlinux with symbols and KVM built in, or a directory that
    'pmuconf host record' wrote. Of a module or a vmlinux, the verdict is on that file alone.

    Exit status: 0 guarded, early-out or no-call, 1 partial or unknown, 2 unguarded, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("file", type=Path, metavar="FILE", help="A module, a vmlinux, or a record of a host.")
        parser.add_argument(
            "--btf",
            type=Path,
            metavar="FILE",
            help="The BTF of the vmlinux that a module belongs to, or that vmlinux. A file with debug information "
            "needs none.",
        )
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return len((args.file,))

    def record(self, args: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
        if not args.file.is_dir():
            return self.show(_of_file(args.file, args.btf))
        if args.btf:
            raise PmuconfError("--btf goes with a module or a vmlinux: a record has its own types", cause="usage")
        return self.show(_of_host(args.file))


class RecordHost(Action):
    """Write what 'pmuconf host' reads of this host into a new directory, to be judged elsewhere.

    'pmuconf host judge DIR' gives the same answer on any machine. A record has a few MB: symbols and code of KVM, type
    information, KVM's parameters, the CPU's model and mitigations. Requires root.

    Exit status: 0 recorded, whatever the verdict, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_root(parser)
        parser.add_argument("directory", type=Path, metavar="DIR", help="The directory to make.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        from pmuconf.host.record import record

        finding = record(_root(args.root), args.directory)
        self.app.stdout.write(f"{printable(str(args.directory))}: {finding.verdict.value}\n")
        return 0


class WriteFacts(Action):
    """Write the facts about this host that only root can read, for audits without root.

    The file has the kernel's verdict with its evidence, KVM's settings, the CPU, the QEMUs that libvirt would start
    for a new VM, and what KVM holds of each live VM. The Nova plugin's trait depends on it:
    /run/pmuconf/host-facts.json.

    'pmuconf audit --host-facts FILE' (report, explain) uses the file if it belongs to root and is not void. It is void
    after a reboot, after a new load of KVM, and after a change of KVM's livepatches or parameters. VMs that were
    started since, VMs that run another program by now, and QEMUs that may be another file by now, are unknown.

    With [host] prove = true in the configuration, an experiment checks the kernel's verdict: that of 'pmuconf host
    --prove', once for each boot and load of KVM. If both disagree, the verdict is unknown (proof-disagrees).

    Exit status: as of 'pmuconf host': 0 guarded, early-out or no-call, 1 partial or unknown, 2 unguarded, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="Write to FILE, all or nothing, for all to read. The default is standard output.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        if os.geteuid() != 0:
            raise PmuconfError(
                "only root can find out what belongs into a file of host facts",
                cause="root-required",
                hint="Run it as root",
            )
        facts = surveyor(experiment=self._experiments())()
        from pmuconf.host.factsfile import dump

        text = dump(facts)
        if args.output is None:
            self.app.stdout.write(text)
        else:
            replace_file(args.output, text, ours=True)
        return facts.guard.verdict.severity

    def _experiments(self) -> bool:
        """Whether [host] prove wants the experiment. A wrong configuration must not keep the facts from anybody."""
        try:
            return settings(self).prove
        except PmuconfError as error:
            warning(self)(f"no experiment, because the configuration can't be used: {error}")
            return False


def _of_file(file: Path, btf: Path | None) -> KernelAnswer:
    """The answer about a module or a vmlinux."""
    with host_modules():
        from pmuconf.host.guard.verdict import judge_file
    return KernelAnswer(judge_file(file, btf))


def _of_host(directory: Path, *, prove_it: bool = False) -> KernelAnswer:
    """The answer about the host below a directory."""
    with host_modules():
        from pmuconf.host import cpu, kvm
        from pmuconf.host.guard.verdict import judge_host
        from pmuconf.host.identity import read_identity
        from pmuconf.host.prove.experiment import with_experiment
    root = _root(directory)
    identity, judged = read_identity(root), judge_host(root)
    finding = with_experiment(root, identity, judged)
    return KernelAnswer(finding, kvm.read_kvm(root), cpu.read_cpu(root), _proof(judged) if prove_it else None)


def _proof(finding: GuardFinding) -> Proof:
    from pmuconf.host.prove.guard import prove as prove_guard

    return prove_guard(finding)


def _root(directory: Path) -> Root:
    """The host below a directory.

    :raises PmuconfError: there is none; cause not-a-host.
    """
    from pmuconf.host.root import Root

    if not any((directory / name).is_dir() for name in ("proc", "sys")):
        raise PmuconfError(
            f"{directory} is no host and no record of one: it has neither proc nor sys",
            cause="not-a-host",
            hint="'pmuconf host record DIR' writes a record, as root on the host that it is about",
        )
    return Root(directory)


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, default=_HERE, metavar="DIR", help="Read below DIR, a recorded host, instead of /."
    )
