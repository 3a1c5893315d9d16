"""``make demo``: the main job on real libvirt domains, made for the purpose and gone afterwards; then two real kernels.

The first part runs on libvirt's embedded QEMU driver in a directory of its own: no daemon, no KVM, and nothing of the
machine's own libvirt is touched. The second part judges two recorded hosts of tests/records. Every command is run, and
its output is its own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import libvirt

from pmuconf.hypervisor.hypervisor import Hypervisor
from pmuconf.policy import Policy
from pmuconf.report.document import document
from pmuconf.report.html import page
from pmuconf.report.status import status_of
from pmuconf.report.story import story
from tests.support import embedded
from tests.support.domains import nova_domain, plain_domain
from tests.support.records import report_of, unpack

PAGE: Final = Path(__file__).parents[1] / "build/demo.html"
_POLICY = """\
[policy]
default = off
rules = profiling

[rule:profiling]
flavor = prof.*
pmu = on
reason = these tenants run perf in their guests
"""


def main() -> int:
    """Show it; the exit status is 0 if every step did what it is there to show."""
    if sys.argv[1:2] == ["define"]:
        _define(sys.argv[2])
        return 0
    with tempfile.TemporaryDirectory(prefix="pmuconf-demo-", dir="/tmp") as folder:
        root = Path(folder)
        os.environ["LIBVIRT_LOG_OUTPUTS"] = f"3:file:{root}/libvirt.log"  # the driver's own chatter
        try:
            return _show(root)
        finally:
            embedded.destroy_all(root / "libvirt")


def _show(root: Path) -> int:
    uri = embedded.prepare(root / "libvirt")
    _say("Nine domains on libvirt's embedded QEMU driver, two of them started (software emulation)")
    # In a process of its own, as each command is: the driver serves one process at a time.
    subprocess.run([sys.executable, "-m", "tests.demo", "define", uri], check=True)
    config = root / "pmuconf.conf"
    config.write_text(f"{_POLICY}\n[libvirt]\nuri = {uri}\n\n[journal]\npath = {root}/journal.sqlite\n")
    print("the policy, in pmuconf.conf:\n")
    print(textwrap.indent(_POLICY, "    "), end="")

    run = Runner(config)
    run("What each VM has, and where that is not what the policy wants", "audit", expect=2)
    run("What would be changed; nothing is", "apply --dry-run", expect=2)
    run("Change it: only <features><pmu/> of the next boot, each change journalled and verified", "apply", expect=1)
    run("Look again: what runs keeps its PMU until it is stopped and started", "audit", expect=1)
    run("Why does this one keep its PMU?", "policy explain instance-00000005", expect=0)
    run("The journal of changes", "journal", expect=0)
    run("Take it all back", "rollback --all", expect=0)
    run("As it was before", "audit", expect=2)
    show_records(root, run)
    print(
        "\nOn your own host, as root (nothing is changed before the last of them):\n\n"
        f"    {_shown(sys.executable).parent / 'pmuconf'} status\n"
        f"    {_shown(sys.executable).parent / 'pmuconf'} audit\n"
        f"    {_shown(sys.executable).parent / 'pmuconf'} apply --dry-run\n"
        f"    {_shown(sys.executable).parent / 'pmuconf'} apply --canary 1\n\n"
        "Rules go into /etc/pmuconf/pmuconf.conf: see etc/pmuconf/pmuconf.conf.sample and docs/policy.md."
    )
    return run.status


def show_records(root: Path, run: Runner) -> None:
    """Two recorded hosts: what their kernels do, how they stand, and one VM on each."""
    guarded, stock = (unpack(name, root) for name in ("6.1-guarded", "6.1-stock"))
    columns = "-c verdict -c evidence -c instructions"
    _say("Two recorded hosts. Debian's 6.1 was booted under emulation with KVM and four VMs, twice")
    print(
        textwrap.fill(
            "tests/records/README.md says how the records were made. 'pmuconf host' reads a record as it reads a live "
            "host. The next two commands run in the folder into which both records were unpacked.",
            80,
        )
    )
    run(
        "A KVM that was built with the guard: it tests enable_pmu before it counts",
        f"host --root 6.1-guarded {columns}",
    )
    run("Debian's own KVM: it counts for every VM", f"host --root 6.1-stock {columns}", expect=2)
    reports = [report_of(record, Policy()) for record in (guarded, stock)]
    _say("How do the two hosts stand? No VM is to have a PMU")
    print(
        textwrap.fill(
            "'pmuconf status' and 'pmuconf explain' ask the libvirt of the host that they run on. A record has no "
            "libvirt, so the demo gives their code the recorded definitions, processes and kernel memory.",
            80,
        )
    )
    for report in reports:
        print()
        _print(status_of(report).lines())
    _say("One VM on both hosts. Its PMU is off and its QEMU disables it in KVM: is it fast?")
    for report in reports:
        (vm,) = (vm for vm in report.vms if vm.name == "web1")
        print(f"on {report.host}:")
        _print(f"    {line}" for line in story(report, vm))
        print()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(document(reports[0], Policy())))
    print(f"The whole report on the guarded host, as a page for your browser: {PAGE}")


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(textwrap.fill(line, 80, subsequent_indent="        ", break_on_hyphens=False))


def _define(uri: str) -> None:
    specs = {"hw:pmu": "true"}
    domains = [
        nova_domain("instance-00000001", version="26.2.2", flavor="m1.small"),
        nova_domain("instance-00000002", version="34.0.0", flavor="m1.small"),
        nova_domain("instance-00000003", version="34.0.0", flavor="perf.large", extra_specs=specs, pmu="on"),
        nova_domain("instance-00000004", version="34.0.0", flavor="prof.large"),
        nova_domain("instance-00000005", version="26.2.2", flavor="legacy.perf", pmu="on"),
        plain_domain("arm-builder", arch="aarch64"),
        plain_domain("db1", pmu="off"),
        plain_domain("web1"),
    ]
    with Hypervisor.open(uri, read_only=False):  # starts libvirt's event loop, which the driver needs
        connection = libvirt.open(uri)
        for xml in domains:
            connection.defineXML(xml)
        connection.lookupByName("web1").create()
        connection.createXML(plain_domain("build-job"), 0)
        connection.close()


class Runner:
    """Runs pmuconf and shows what it says, as it comes."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.status = 0

    def __call__(self, what: str, words: str, *, expect: int = 0) -> None:
        _say(what)
        print(f"$ pmuconf {words}", flush=True)
        program = Path(sys.executable).with_name("pmuconf")
        command = [str(program), "--config-file", str(self._config), *shlex.split(words)]
        done = subprocess.run(command, check=False, cwd=self._config.parent)
        print(f"(exit status {done.returncode})", flush=True)
        if done.returncode != expect:
            print(f"demo: expected exit status {expect}", file=sys.stderr)
            self.status = 1


def _say(sentence: str) -> None:
    print(f"\n=== {sentence}\n", flush=True)


def _shown(path: str) -> Path:
    here = Path.cwd()
    return Path(path).relative_to(here) if Path(path).is_relative_to(here) else Path(path)


if __name__ == "__main__":
    sys.exit(main())
