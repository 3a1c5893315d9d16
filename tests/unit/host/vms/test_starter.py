"""What started a VM's process: by command lines as Proxmox, Kata, libvirt, Firecracker and crosvm write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.host.root import Root
from pmuconf.host.vms.process import vm_processes
from pmuconf.host.vms.qemu_args import QemuArgs, parse_args
from pmuconf.host.vms.starter import is_monitor, manager_of, name_by_option
from tests.unit.host.memory import stat
from tests.unit.host.sysroot import write

# As qemu-server 8 starts a VM (shortened).
PROXMOX = (
    "/usr/bin/kvm -id 100 -name web01,debug-threads=on -no-shutdown "
    "-chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off -mon chardev=qmp,mode=control "
    "-pidfile /var/run/qemu-server/100.pid -daemonize -smbios type=1,uuid=b886e2ce-0caf-42a3-84db-d3568b369292 "
    "-smp 2,sockets=1,cores=2,maxcpus=2 -nodefaults -cpu host,+kvm_pv_eoi,+kvm_pv_unhalt -m 2048 "
    "-machine type=pc-i440fx-8.1+pve0"
)
# As Kata Containers 3 starts a pod's (shortened).
KATA = (
    "/opt/kata/bin/qemu-system-x86_64 -name sandbox-41cb92475d2d2b8b93befe133d6df302,debug-threads=on "
    "-uuid e62392aa-df4d-4482-b269-622a8d89fc51 -machine q35,accel=kvm,kernel_irqchip=on -cpu host,pmu=off "
    "-qmp unix:/run/vc/vm/41cb92475d2d2b8b93befe133d6df302/qmp.sock,server=on,wait=off -m 2G -nographic"
)
LIBVIRT = (
    "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S "
    '-object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-1-web/k.aes"} '
    "-machine pc-q35-7.2,usb=off -accel kvm -cpu host,migratable=on,pmu=off "
    "-uuid 1b4e28ba-2fa1-11d2-883f-0016d3cca427"
)
FIRECRACKER = "/usr/bin/firecracker --api-sock /run/firecracker.socket --id 551e7604-e35c-42b3"


def args(line: str) -> QemuArgs:
    parsed = parse_args(b"".join(word.encode() + b"\0" for word in line.split()))
    assert parsed is not None
    return parsed


class TestManager:
    def test_proxmox(self) -> None:
        found = args(PROXMOX)
        assert (found.manager, found.name) == ("proxmox", "web01")
        assert found.uuid == "b886e2ce-0caf-42a3-84db-d3568b369292"
        assert (found.pmu, found.kvm, found.may_be_emulated) == (True, True, False)
        assert args(PROXMOX.replace("-cpu host", "-cpu host,-pmu")).pmu is False  # flags -pmu of a custom CPU model

    def test_kata(self) -> None:
        found = args(KATA)
        assert (found.manager, found.name) == ("kata", "sandbox-41cb92475d2d2b8b93befe133d6df302")
        assert (found.uuid, found.pmu, found.kvm) == ("e62392aa-df4d-4482-b269-622a8d89fc51", False, True)

    def test_libvirt(self) -> None:
        assert (args(LIBVIRT).manager, args(LIBVIRT).name) == ("libvirt", "web")

    def test_nobody_that_is_known(self) -> None:
        assert args("/usr/bin/qemu-system-x86_64 -enable-kvm -pidfile /run/qemu-server.pid").manager == ""
        assert args("/usr/bin/qemu-system-x86_64 -enable-kvm -smbios type=1,uuid=b886e2ce-0caf-42a3-84db-d3568b369292")
        assert manager_of([]) == ""

    def test_a_uuid_of_smbios_counts_with_proxmox_alone_and_only_once(self) -> None:
        """Another's UUID there would join its process to a domain of libvirt's."""
        mine = PROXMOX.replace("-pidfile /var/run/qemu-server/100.pid ", "")
        assert args(mine).uuid is None
        assert args(f"{PROXMOX} -smbios type=3,uuid=0caf86e2-0caf-42a3-84db-d3568b369292").uuid is None


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (FIRECRACKER, "551e7604-e35c-42b3"),
        ("firecracker --id=fc-1", "fc-1"),
        ("firecracker --id --api-sock", None),
        ("firecracker --id", None),
        ("firecracker", None),
        ("crosvm run --name vm --cpus 2 vmlinux", "vm"),
        ("cloud-hypervisor --api-socket /run/ch.sock", None),
        ("something --id x", None),
        ("", None),
    ],
)
def test_the_name_that_a_monitor_was_given(line: str, name: str | None) -> None:
    assert name_by_option(line.split()) == name


@pytest.mark.parametrize(
    ("command", "line", "runs"),
    [
        ("firecracker", FIRECRACKER, True),
        ("cloud-hyperviso", "/usr/bin/cloud-hypervisor --kernel k", True),
        ("crosvm", "/usr/bin/crosvm run vmlinux", True),
        ("crosvm", "/usr/bin/crosvm devices --block x", False),
        ("bash", "bash firecracker", False),
        ("", "", False),
    ],
)
def test_what_is_a_monitor_if_its_open_files_can_not_be_seen(command: str, line: str, runs: bool) -> None:
    assert is_monitor(command, line.split()) is runs


@pytest.mark.parametrize(
    ("words", "maybe"),
    [
        ("-accel kvm", False),
        ("-enable-kvm", False),
        ("-machine q35,accel=kvm", False),
        ("-machine accel=kvm:tcg", True),
        ("-accel kvm -accel tcg", True),
        ("-M q35,accel=tcg:kvm", True),
        ("-accel kvm,dirty-ring-size=4096", False),
        ("-accel accel=kvm", False),
    ],
)
def test_where_qemu_may_go_without_kvm(words: str, maybe: bool) -> None:
    assert args(f"/usr/bin/qemu-system-x86_64 {words}").may_be_emulated is maybe


@given(st.lists(st.text(max_size=20), max_size=6), st.sampled_from(["firecracker", "crosvm", "x", ""]))
def test_no_command_line_is_an_error(words: list[str], command: str) -> None:
    words = [command, *words]
    manager_of(words)
    is_monitor(command, words)
    name = name_by_option(words)
    assert name is None or name in {word.partition("=")[2] for word in words} | set(words)


def test_a_path_that_is_too_long_is_none(tmp_path: Path) -> None:
    """The first word may have any length: it is a path for the next start, and shown."""
    huge = "/" + "x" * 100_000
    write(tmp_path, "/proc/7/stat", stat(7, 5, "firecracker"))
    write(tmp_path, "/proc/7/cmdline", huge.encode() + b"\0--id\0vm\0")
    (tmp_path / "proc/7/fd").mkdir()
    (tmp_path / "proc/7/fd/9").symlink_to("anon_inode:kvm-vm")
    (process,) = vm_processes(Root(tmp_path))
    assert (process.started_as, process.name, process.args) == ("", None, None)
    assert args(f"{huge}/qemu-system-x86_64 -enable-kvm").binary == ""
