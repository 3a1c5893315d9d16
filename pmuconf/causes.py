"""Every cause code of pmuconf that no other table has: what it means, by topic. docs/causes.md is made from it.

The causes of a VM's fast path are in fastpath.cases, and those of a kernel's verdict in host.guard.

A code is stable: scripts and alerts compare it. Its sentence may change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["CAUSES", "Cause", "Topic"]


class Topic(enum.Enum):
    """What a cause is about: the sections of docs/causes.md, in their order."""

    COMMAND = "Commands and files"
    LIBVIRT = "libvirt"
    XML = "Domain XML"
    CONFIGURATION = "Configuration and policy"
    CHANGE = "Changes of domains"
    JOURNAL = "The journal"
    HOST = "Host facts and proofs"
    KERNEL = "Reading the kernel"
    VM = "Live VMs"
    PARAMETER = "Who would lose a PMU with kvm.enable_pmu=N"
    QEMU = "QEMU binaries"
    SERVICE = "The service"
    FLEET = "Reports of a fleet"
    CLOUD = "Nova and the cloud's API"
    BENCH = "Measurements"


@dataclass(frozen=True)
class Cause:
    """One cause.

    :param meaning: a sentence without its full stop, for a person who reads the code in an error or a report.
    :param page: the page below docs/ that tells more, with its anchor; empty if the sentence is all there is.
    """

    topic: Topic
    meaning: str
    page: str = ""


def _of(topic: Topic, causes: dict[str, str], page: str = "") -> dict[str, Cause]:
    return {code: Cause(topic, meaning, page) for code, meaning in causes.items()}


CAUSES: Final[dict[str, Cause]] = {
    **_of(
        Topic.COMMAND,
        {
            "usage": "The options do not go together, or one is missing",
            "internal": "A defect of pmuconf: please report it with the output of --debug",
            "out-of-memory": "The system gave no more memory",
            "module-missing": "A Python module is not installed; the hint is the command that installs it",
            "host-missing": "capstone or pyelftools is not installed; the hint is the command that installs it",
            "system-error": "The operating system refused something; the sentence says what",
            "file-missing": "A file or folder that was named does not exist",
            "file-unreadable": "A file that was named can't be read, or is not a regular file",
            "output-unwritable": "The output can't be written: no permission, no space, or nobody reads it",
        },
    ),
    **_of(
        Topic.COMMAND,
        {
            "interrupted": "The command was interrupted while it waited",
        },
        "commands.md#waiting-and-interrupting",
    ),
    **_of(
        Topic.COMMAND,
        {
            "input-too-slow": "Reading the files took more than 25 seconds",
            "input-too-large": "Reading the files took more than 400 MiB of memory",
        },
        "commands.md#limits-of-files",
    ),
    **_of(
        Topic.LIBVIRT,
        {
            "libvirt-unreachable": "No libvirt daemon answers at this URI",
            "libvirt-permission": "The socket or polkit refuses this user",
            "libvirt-timeout": "libvirt did not answer within 30 s (connection) or 28 s (call), or too many calls hang",
            "libvirt-lost": "The connection to libvirt broke",
            "libvirt-busy": "Another process has this embedded driver open",
            "libvirt-missing": "libvirt's Python module is not installed; the hint is the command that installs it",
            "libvirt-error": "libvirt reports any other error",
            "domain-timeout": "libvirt did not answer about one domain within 28 s: its QEMU or its storage hangs",
            "domain-vanished": "The domain was undefined or stopped while pmuconf looked at it",
            "no-such-domain": "No domain has this name or UUID",
            "ambiguous-domain": "The UUID of one domain is the name of another: use the other one's name, or this UUID",
            "qemu-silent": "The QEMU of a VM does not answer, so its exits were not counted (--sample)",
            "threads-exhausted": "No more threads: raise TasksMax= or ulimit -u, or lower [libvirt] parallel",
            "not-qemu": "The URI belongs to another driver, or the binary is not a QEMU",
        },
    ),
    **_of(
        Topic.XML,
        {
            "xml-syntax": "The text is not well-formed XML",
            "xml-encoding": "The text is not in the encoding that it declares, or in one that pmuconf does not read",
            "xml-doctype": "The text has a DOCTYPE, which domain XML never has: pmuconf does not read it",
            "xml-too-large": "The text is larger than [libvirt] max_xml_bytes",
            "xml-readers-disagree": "Two XML parsers read it differently, so it stays as it is: set the state by hand",
            "not-a-domain": "The XML is not a libvirt domain",
            "not-a-snapshot": "The XML is not a libvirt snapshot",
            "no-name": "The domain has no name",
            "hook-input": "A manager's hook was called without a domain that can be read",
            "hook-facts": "What a manager says of a VM beside its domain can't be read",
            "bad-pmu-state": "The state of <pmu> is neither on nor off",
        },
    ),
    **_of(
        Topic.CONFIGURATION,
        {
            "config-missing": "A configuration file that was named does not exist",
            "config-unreadable": "A configuration file can't be read",
            "config-invalid": "A value is wrong: the message names the file, the group and the option",
            "flavors-unreadable": "The flavor map can't be read",
            "flavors-broken": "The flavor map is not one that 'pmuconf flavors export' writes",
        },
    ),
    **_of(
        Topic.CONFIGURATION,
        {
            "flavor-image-conflict": "hw:pmu of the flavor and hw_pmu of the image contradict each other",
        },
        "policy.md",
    ),
    **_of(
        Topic.CHANGE,
        {
            "refused-by-libvirt": "libvirt refused the definition: nothing was changed in this domain",
            "verify-failed": "The domain was changed and could not be read afterwards: the run stopped",
            "edit-overwritten": "Somebody edited the domain at the same time: the change may have overwritten that",
            "differs-after": "The domain differs in more than its PMU state afterwards, and no event explains it",
            "defined-anew": "Somebody undefined the domain at the same time, and the change brought it back",
            "not-confirmed": "libvirt reported no event for the change",
            "busy": "Somebody else kept editing the domain: nothing was changed",
            "transient": "The domain has no next boot that could be written",
            "no-change": "The text has nothing to change",
            "canary": "The run stopped after its canary, as asked",
            "canary-failed": "The canary failed or differs: nothing more was changed",
            "canary-missing": "--continue found no canary of an earlier run",
            "canary-lost": "A domain of the canary has changed since",
            "max-changes": "The run reached --max-changes",
            "stopped-by-failure": "An earlier failure stopped the run, or more domains failed than max_failures allows",
            "locked": "Another pmuconf is changing domains on this host",
            "nova-observed": "Nova manages the domain, and [policy] nova_domains is observe",
            "request-refused": "A flavor, an image or a rule beats the PMU state that was asked for",
        },
        "changes.md",
    ),
    **_of(
        Topic.JOURNAL,
        {
            "no-such-change": "The journal has no such change, or none that could be taken back",
            "not-to-be-undone": "This change can't be taken back: it was not made, or is not finished",
            "taken-back": "The change was taken back already",
            "changed-since": "Somebody else has changed the state since: it stays",
            "another-host": "The change was made on another host: take it back there",
            "flavor-change": "The change is one of a flavor: 'pmuconf flavors rollback' takes it back",
            "change-invalid": "An Ansible module was given something that is not a change of a journal",
            "journal-missing": "There is no journal at this path",
            "journal-permission": "This user may not read or write the journal",
            "journal-full": "The journal's disk is full",
            "journal-busy": "Another process holds the journal's database",
            "journal-damaged": "The journal is not a database, or is damaged",
            "journal-version": "A newer pmuconf wrote the journal",
            "journal-untrusted": "Another user can write to the journal's folder, or has put a link or FIFO there",
            "settled-differs": "The interrupted change was settled; somebody has changed more in the domain since",
            "preimage-damaged": "The interrupted change was settled; its old text is damaged",
            "uuid-invalid": "The UUID of the entry is not valid: it counts as not made",
            "change-damaged": "The entry can't be read: it counts as not made",
        },
        "changes.md#the-journal-and-crashes",
    ),
    **_of(
        Topic.HOST,
        {
            "facts-unreadable": "The file of host facts can't be read",
            "facts-untrusted": "Other users than root and this one could have written the file of host facts",
            "facts-broken": "The file is not one that 'pmuconf host facts' writes, or an older version wrote it",
            "facts-stale": "Since the facts were written, the host was booted, or KVM or a livepatch loaded",
            "host-unknown": "No saving is known of a host like this one",
            "host-changes": "KVM was loaded anew or a livepatch came, again and again, while pmuconf looked",
            "remote-host": "The question can only be answered on that host itself",
            "proof-disagrees": "The kernel's code says one thing, and an experiment on this host another",
            "prove-impossible": "The proof can't be made: what it observes is not accessible here",
        },
        "host.md",
    ),
    **_of(
        Topic.KERNEL,
        {
            "kvm-not-loaded": "KVM is not loaded",
            "not-x86": "The host or the file is not x86-64",
            "no-kallsyms": "/proc/kallsyms can't be read",
            "kallsyms-hidden": "/proc/kallsyms hides the addresses: run as root (kernel.kptr_restrict)",
            "kallsyms-broken": "/proc/kallsyms is damaged or has an unexpected form",
            "no-kcore": "There is no /proc/kcore: the kernel needs CONFIG_PROC_KCORE",
            "kcore-refused": "/proc/kcore can't be read: root is required, and lockdown must not be confidentiality",
            "kcore-broken": "/proc/kcore lacks the code, or is damaged",
            "function-not-found": "The function of the exit path is missing, or there are several",
            "no-build-id": "The running module has no build ID, so no file can stand for it",
            "no-file-with-build-id": "No file on this host has the build ID of the running module",
            "compressed-kernel": "The file is a kernel for boot loaders, without symbols: give the module or vmlinux",
            "not-a-host": "The directory is no host and no record of one",
            "root-required": "Only root can find out what was asked for",
            "cannot-decompress": "The module is compressed in a way that can't be unpacked here",
            "elf-broken": "The ELF file is truncated or damaged",
            "no-dwarf": "The file has no debug information",
            "dwarf-broken": "The debug information is damaged or has an unknown form",
            "btf-of-another-kernel": "The BTF is not of the kernel that the file belongs to",
            "btf-broken": "The BTF is truncated or damaged",
            "btf-ambiguous": "The BTF has several structures with this name that differ",
            "btf-bit-field": "The member is a bit field, which pmuconf does not read",
            "no-offsets": "Neither BTF nor debug information describes KVM's structures",
            "livepatched": "A livepatch replaces the function, and its text can't be read",
            "livepatch-transition": "A livepatch is in transition: some tasks run the old function, some the new one",
            "livepatch-several": "Several livepatches replace the same function",
            "livepatch-callee": "A livepatch replaces a function that the exit path calls",
            "livepatch-unreadable": "The list of livepatches can't be read",
            "record-escapes": "A link in the record leads out of it",
            "record-unwritable": "The record can't be written there",
            "unread-modules": "A module of KVM runs, and neither its live text nor its file could be read",
        },
        "host.md#causes",
    ),
    **_of(
        Topic.VM,
        {
            "process-unknown": "The process of the VM was not found on this host",
            "several-vms": "The process holds several VMs of KVM, which differ",
            "kernel-memory-odd": "Kernel memory contradicts itself or kvm.enable_pmu",
            "vm-remade": "A reset may have replaced the VM of this confidential guest since the facts were written",
            "tdx-guest": "The VM is or may be a TDX guest: whether its PMU is disabled depends on the kernel",
            "no-qemu": "No QEMU that is known here runs the VM, so only kernel memory shows its PMU",
            "qemu-unknown": "The QEMU of the VM may disable the PMU or not",
            "may-be-emulated": "The command line of QEMU names another accelerator beside KVM, so KVM may not run it",
            "cpu-unknown": "The command line of QEMU does not show whether the CPU has a PMU",
            "parameter-unknown": "kvm.enable_pmu can't be read",
            "no-enable-pmu": "The kernel's struct kvm has no enable_pmu",
            "no-vcpu-yet": "The VM has no vCPU yet, so its PMU may still be disabled",
            "no-process": "KVM holds the VM, and no process here has it",
            "not-listed": "KVM does not list a VM of this process",
            "list-not-found": "KVM's list of VMs was not found in kernel memory",
            "pid-namespace": "pmuconf runs in a PID namespace of its own and can't match VMs with processes",
            "unstable": "It changed while it was read: ask again",
        },
        "fastpath.md",
    ),
    **_of(
        Topic.PARAMETER,
        {
            "pmu-wanted": "The policy wants its PMU on",
            "pmu-left-on": "The policy leaves its PMU as it is, and it has one",
            "pmu-left-unknown": "The policy leaves its PMU as it is, and it is not known whether it has one",
            "pmu-undecided": "A rule needs a fact that is unknown here",
            "pmu-not-judged": "It can't be judged: see 'pmuconf explain'",
            "pmu-counts": "Its PMU counts something now, though the policy wants it off",
            "pmu-may-count": "The policy wants its PMU off; whether it counts something now is not known",
            "other-manager": "libvirt does not know this VM, and its PMU is not known to be disabled",
            "default-not-off": "The policy's default leaves or gives a PMU to VMs that come here",
            "rule-not-off": "This rule leaves or gives VMs a PMU, and such a VM may come here",
            "flavor-on": "VMs of this flavor have a PMU or may keep one, and may come here",
            "flavor-undecided": "Whether VMs of this flavor have a PMU depends on their project, image or name",
            "image-on": "VMs of this image have a PMU, and may come here",
            "flavors-not-seen": "They may choose a PMU, which beats the policy, and were not asked: name the cloud",
        },
        "host.md#take-the-pmu-from-all-vms-of-a-host",
    ),
    **_of(
        Topic.QEMU,
        {
            "strings-in-binary": "The binary has the message of the call that disables the PMU in KVM",
            "tested-build-id": "This very file, by its SHA-256, was tested: it does not disable the PMU in KVM",
            "proved": "'pmuconf qemu prove' has started this very file on this host",
            "no-known-string": "Nothing in the binary shows it: prove it",
            "accel-property": "The binary has the property of a newer QEMU, which does not show it: prove it",
            "not-offered": "KVM can't disable the PMU of one VM here, so the proof says nothing of the binary",
            "unreadable": "The file can't be read",
            "another-emulator": "The next boot uses another emulator than the process, and that one was not read",
            "replaced": "Another file is there than when the facts were written",
            "libvirt-restarted": "libvirt was started since the facts were written, and may look for QEMU elsewhere",
            "unseen": "The facts are older than ten minutes, and the file can't be seen from here",
        },
        "host.md#the-qemus-that-libvirt-would-start",
    ),
    **_of(
        Topic.SERVICE,
        {
            "events-lost": "libvirt delivers no events to the service, which connects anew",
            "listen-failed": "The service can't listen at this address",
            "too-many-failures": "More domains failed than max_failures allows: nothing more is changed",
            "stale": "Not all domains were looked at for three intervals and a minute",
            "stuck": "The service has given no sign of life for 30 seconds",
        },
        "service.md",
    ),
    **_of(
        Topic.FLEET,
        {
            "no-reports": "None of the files is a report",
            "not-a-report": "The file is JSON, but not a report",
            "report-missing": "The host has no report",
            "report-stale": "The report is older than --stale",
            "report-truncated": "The file is empty or ends early",
            "report-broken": "The file is not JSON, or a value in it has the wrong type",
            "report-version": "A newer pmuconf wrote the report",
            "report-too-large": "Unpacked, the report is larger than 64 MiB, or reading it took more than 400 MiB",
            "report-unreadable": "The file can't be read, is not a regular file, or is damaged gzip",
            "report-duplicate": "The host has a newer report, which is used",
            "report-host-claimed": "The file is named after one host and claims to be another's, which has its own",
            "report-host-differs": "The file is named after one host and is the only report of another",
            "report-from-future": "The clock of the host is ahead of this one's",
            "worker-lost": "A process that read reports was killed",
        },
        "fleet.md",
    ),
    **_of(
        Topic.CLOUD,
        {
            "nova-missing": "There is no Nova in this Python",
            "nova-python": "The Python of Nova can't be run",
            "nova-plugin-missing": "pmuconf-nova is not installed in Nova's Python",
            "nova-check": "The check of the plugin could not run",
            "openstack-missing": "openstacksdk is not installed; the hint is the command that installs it",
            "openstack-config": "clouds.yaml or the OS_* variables do not describe a cloud",
            "openstack-auth": "Keystone refuses the credentials",
            "openstack-forbidden": "The role of this user does not allow it",
            "openstack-not-found": "The cloud has no such flavor",
            "openstack-unreachable": "The API does not answer",
            "openstack-error": "The API reports any other error",
        },
        "nova.md",
    ),
    **_of(
        Topic.BENCH,
        {
            "kvm-missing": "There is no /dev/kvm",
            "kvm-permission": "This user may not open /dev/kvm",
            "kvm-refused": "KVM refuses a micro-VM",
            "pmu-capability-refused": "KVM does not disable the PMU of one VM here (KVM_CAP_PMU_CAPABILITY)",
            "no-such-counters": "The hardware has no such counters",
            "counters-missing": "The host gives no hardware counters",
            "counters-permission": "The kernel lets this user count nothing in it (kernel.perf_event_paranoid)",
            "counters-shared": "Another user of the hardware counters shared them, such as the NMI watchdog",
            "run-broken": "The file is not one that 'pmuconf bench' writes",
            "runs-differ": "The two measurements are of different things",
            "nested": "The host is itself a VM, or emulated",
            "no-hardware-kvm": "Neither kvm_amd nor kvm_intel is loaded",
            "no-constant-tsc": "The CPU's time stamp counter is not constant",
            "tsc-not-trusted": "The kernel does not use the time stamp counter as its clock",
            "enable-pmu-n": "kvm.enable_pmu is N: no VM has a PMU",
            "not-pinned": "The process may not stay on one CPU",
            "clock-moved": "The speed of the CPU changed by more than 2 % during a pair",
            "smt-neighbour": "The other thread of the core was busy for more than 5 % of the time",
            "stolen": "The hypervisor below took time away",
            "control-differs": "The control exit differs too, so something else than the PMU makes the difference",
            "too-few-pairs": "There are too few pairs for this confidence",
        },
        "bench.md",
    ),
}
"""Every cause that is declared here, by its code."""
