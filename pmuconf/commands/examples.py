"""Examples of every command: a need in a line, and the command that meets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["EXAMPLES", "Example", "examples_of"]


@dataclass(frozen=True)
class Example:
    """One use of a command.

    :param need: what the reader has or wants, without a full stop.
    :param line: what to type; it can be pasted into a shell.
    """

    need: str
    line: str

    @property
    def heading(self) -> str:
        """The need as it stands above the line."""
        return self.need if self.need.endswith("?") else f"{self.need}:"


EXAMPLES: Final[Mapping[str, tuple[Example, ...]]] = {
    "status": (
        Example("As root: how does this host stand, and what comes next?", "pmuconf status"),
        Example("One line for Nagios or Icinga, with exit status 0 to 3", "pmuconf status --check"),
        Example("For a script, a second faster: no exits are counted", "pmuconf status -f json --no-sample"),
    ),
    "audit": (
        Example("As root: what does each VM have, and what should it have?", "pmuconf audit"),
        Example("Whose guests use their PMU now, and would notice its loss?", "pmuconf audit --pmu-users"),
        Example(
            "Only the VMs with a finding, with every column, for a script", "pmuconf audit --only findings -f json"
        ),
        Example("As root: VMs of Proxmox, Kata or Firecracker too", "pmuconf audit --processes"),
    ),
    "explain": (
        Example("As root: does this VM have the fast path, and if not, what helps?", "pmuconf explain web1"),
        Example("How much would it save? Count its exits for five seconds", "pmuconf explain web1 --sample 5s"),
        Example("A VM that libvirt does not know, by its process", "pmuconf explain --processes 4711"),
        Example("For a script: the same as one JSON document", "pmuconf explain web1 -f json"),
    ),
    "report": (
        Example(
            "One page for your colleagues, with what the fast path saves",
            "pmuconf report -f html --sample 10s -o /var/www/html/pmu.html",
        ),
        Example(
            "Metrics for Prometheus, from a timer",
            "pmuconf report -f prometheus -o /var/lib/prometheus/node-exporter/pmuconf.prom",
        ),
        Example("This host's part of a fleet report", "pmuconf report -f json -o host1.json"),
        Example(
            "Files of 'virsh dumpxml', where libvirt is out of reach", "pmuconf report -f html --xml dumps/ -o pmu.html"
        ),
    ),
    "apply": (
        Example("What would be changed?", "pmuconf apply --dry-run"),
        Example("Change one domain first", "pmuconf apply --canary 1"),
        Example("Go on with the others, if that one still is as it was left", "pmuconf apply --continue"),
        Example("These two only", "pmuconf apply web1 web2"),
    ),
    "rollback": (
        Example("What would be put back?", "pmuconf rollback --all --dry-run"),
        Example("This domain gets back the PMU state that it had at first", "pmuconf rollback web1"),
        Example("One change, by its number in 'pmuconf journal'", "pmuconf rollback --change 12"),
    ),
    "journal": (
        Example("What was changed last, and by whom?", "pmuconf journal --limit 20"),
        Example("All changes of one domain", "pmuconf journal web1"),
        Example("Everything, for a spreadsheet", "pmuconf journal -f csv > changes.csv"),
    ),
    "journal purge": (
        Example("Drop what is older than [journal] retention_days", "pmuconf journal purge"),
        Example("Keep one year", "pmuconf journal purge --older-than 365"),
    ),
    "rewrite": (
        Example(
            "A definition with PMU off, for 'virsh define'",
            "virsh dumpxml --inactive --security-info web1 | pmuconf rewrite > web1.xml",
        ),
        Example("A template of your own, with PMU on", "pmuconf rewrite --pmu on template.xml > perf.xml"),
    ),
    "hook": (
        Example("In KubeVirt's sidecar, as onDefineDomain", 'pmuconf hook kubevirt --vmi "$2" --domain "$4"'),
        Example("On a host of oVirt, in hooks/before_vm_start", "pmuconf hook vdsm"),
        Example("On a host of CloudStack, as libvirt-vm-xml-transformer.sh", 'pmuconf hook cloudstack --domain "$2"'),
        Example("In front of OpenNebula's deploy", "pmuconf hook opennebula --vm vm.xml > new.xml"),
    ),
    "serve": (
        Example("In a terminal: see what it would find, and change nothing", "pmuconf serve --observe"),
        Example("As systemd runs it", "systemctl enable --now pmuconf-host-facts.timer pmuconf.service"),
        Example("Is it well, and if not, why?", "curl -s http://127.0.0.1:9754/healthz"),
    ),
    "policy check": (
        Example("Is the configuration of this host valid, and what does it mean?", "pmuconf policy check"),
        Example("Try a file before it is installed", "pmuconf --config-file new.conf policy check"),
        Example("For a script", "pmuconf policy check -f json"),
    ),
    "policy explain": (
        Example("Which rule decides about this domain?", "pmuconf policy explain web1"),
        Example("The same from a file of domain XML", "pmuconf policy explain --xml web1.xml"),
        Example(
            "What would VMs of this flavor get?",
            "pmuconf policy explain --flavor perf.large --extra-spec hw:pmu=true",
        ),
        Example("For a script", "pmuconf policy explain web1 -f json"),
    ),
    "selftest": (
        Example("Are units, files, rights and the service on this host as they should be?", "pmuconf selftest"),
        Example("For a program", "pmuconf selftest -f json"),
    ),
    "host": (
        Example("As root: does the running kernel spare VMs without a PMU?", "pmuconf host"),
        Example("Do not take our word for it: count the calls in the kernel", "pmuconf host --prove"),
        Example("For a script: verdict and evidence", "pmuconf host -f json -c verdict -c evidence"),
    ),
    "host judge": (
        Example("A kernel before it is installed: its module, and BTF", "pmuconf host judge kvm.ko --btf vmlinux"),
        Example("A vmlinux with KVM built in", "pmuconf host judge vmlinux"),
        Example("Another host, by what 'pmuconf host record' wrote there", "pmuconf host judge host-record/"),
    ),
    "host facts": (
        Example("As root, at each boot", "pmuconf host facts -o /run/pmuconf/host-facts.json"),
        Example("Then, as an ordinary user", "pmuconf audit --host-facts /run/pmuconf/host-facts.json"),
    ),
    "host record": (
        Example("As root, on the host in question", "pmuconf host record host-record/"),
        Example("On your own machine", "pmuconf host judge host-record/"),
    ),
    "qemu prove": (
        Example("Does the QEMU of this host deliver?", "pmuconf qemu prove /usr/bin/qemu-system-x86_64"),
        Example("For a script", "pmuconf qemu prove /usr/bin/qemu-system-x86_64 -f json"),
    ),
    "host disable-pmu": (
        Example("As root: who would lose a PMU? Nothing is written", "pmuconf host disable-pmu --check"),
        Example(
            "The same on a compute host of OpenStack, whose GPU flavors go to other hosts",
            "pmuconf host disable-pmu --check --os-cloud admin --elsewhere 'gpu.*'",
        ),
        Example("Write it, if nobody would", "pmuconf host disable-pmu"),
    ),
    "preflight qemu": (
        Example("A new QEMU, unpacked but not yet installed", "pmuconf preflight qemu new/usr/bin/qemu-system-x86_64"),
        Example(
            "All VMs, for a spreadsheet", "pmuconf preflight qemu --all -f csv new/usr/bin/qemu-system-x86_64 > vms.csv"
        ),
    ),
    "bench cpuid": (
        Example("What does PMU off save per exit on this host?", "pmuconf bench cpuid"),
        Example("Use the result in this host's reports", "pmuconf bench cpuid --store"),
        Example("To compare with figures of at_cpu_cpuid: a rate per second", "pmuconf bench cpuid --seed-method"),
        Example("Before a new kernel is booted: keep it for 'bench compare'", "pmuconf bench cpuid --save before.json"),
    ),
    "bench msr": (
        Example("A read of an MSR in place of CPUID", "pmuconf bench msr"),
        Example("Two minutes on a CPU that nothing else uses", "pmuconf bench msr --seconds 120 --cpu 7"),
    ),
    "bench port": (
        Example("Port I/O in place of CPUID", "pmuconf bench port"),
        Example("With a picture of both distributions", "pmuconf bench port --plot port.svg"),
    ),
    "bench compare": (
        Example("What did the new kernel bring?", "pmuconf bench compare before.json after.json"),
        Example("With a picture", "pmuconf bench compare before.json after.json --plot kernels.svg"),
    ),
    "nova check": (
        Example("Before nova-compute is restarted", "pmuconf nova check"),
        Example("Nova is in an environment of its own", "pmuconf nova check --python /opt/nova/bin/python"),
        Example("nova-compute is in a container", "docker exec nova_compute python3 -m pmuconf_nova.check"),
    ),
    "flavors audit": (
        Example("Which flavors lack hw:pmu?", "pmuconf flavors audit"),
        Example("One cloud of clouds.yaml", "pmuconf flavors audit --os-cloud prod --only-used"),
    ),
    "flavors apply": (
        Example("What would be set?", "pmuconf flavors apply --dry-run"),
        Example("Begin with one flavor", "pmuconf flavors apply --max-changes 1"),
    ),
    "flavors rollback": (
        Example("What would be taken away?", "pmuconf flavors rollback --all --dry-run"),
        Example("One flavor", "pmuconf flavors rollback m1.large"),
    ),
    "flavors export": (
        Example("On a host with an administrator's credentials", "pmuconf flavors export -o flavors.json"),
        Example("Then, on the compute hosts", "pmuconf audit --flavors flavors.json"),
    ),
    "fleet report": (
        Example("How do all hosts stand, and which steps help most?", "pmuconf fleet report reports/"),
        Example(
            "A page a host, for a web server",
            "pmuconf fleet report reports/ -f html --host-pages -o /var/www/html/pmu/",
        ),
        Example(
            "Name the hosts of an inventory that sent nothing for a day",
            "pmuconf fleet report reports/ --expect @inventory.txt --stale 24h",
        ),
    ),
    "fleet diff": (
        Example("Who lost the fast path since Monday?", "pmuconf fleet diff monday/ tuesday/"),
        Example("For a script", "pmuconf fleet diff monday/ tuesday/ -f json -o changes.json"),
    ),
    "fleet plan": (
        Example("Everything that is to be done", "pmuconf fleet plan reports/ -o plan.json"),
        Example(
            "One rack, five hosts at a time",
            "pmuconf fleet plan reports/ --limit 'rack1-*' --wave-size 5 -o plan.json",
        ),
    ),
    "complete": (
        Example("In this bash only", ". <(pmuconf complete)"),
        Example("bash, for all users of this host", "pmuconf complete > /etc/bash_completion.d/pmuconf"),
        Example(
            "zsh, for all users of this host",
            "pmuconf complete --shell zsh > /usr/local/share/zsh/site-functions/_pmuconf",
        ),
    ),
    "help": (
        Example("All commands", "pmuconf help"),
        Example("One of them", "pmuconf help policy explain"),
    ),
}


def examples_of(command: str) -> str:
    """The part of a command's help that shows its examples; empty for a name that is no command."""
    lines = [f"  {example.heading}\n    {example.line}" for example in EXAMPLES.get(command, ())]
    return "\n".join(["Examples:", *lines]) if lines else ""
