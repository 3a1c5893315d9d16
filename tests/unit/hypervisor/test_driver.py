"""Which host a change was made on: by its machine id, libvirt's UUID of it, and at last by its name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from pmuconf.hypervisor import driver
from pmuconf.hypervisor.driver import Driver, driver_uri, host_uuid, machine_id, same_kernel

M1, M2, U1, U2 = "1" * 32, "2" * 32, "uuid-1", "uuid-2"
A, LONG, B = "qemu://a/system", "qemu://a.example.org/system", "qemu://b/system"
ELSEWHERE = "qemu://a.example.com/system"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # The machine id decides, whatever the names are; libvirt's UUID may be made anew at each start.
        (Driver(A, M1, U1), Driver(B, M1, U2), True),
        (Driver(A, M1), Driver(LONG, M1, U2), True),
        (Driver(A, M1, U1), Driver(A, M2, U2), False),
        (Driver(A, M1), Driver(A, M2), False),
        # A new machine id on the same hardware; hardware that was sold with one UUID for all.
        (Driver(A, M1, U1), Driver(LONG, M2, U1), True),
        (Driver(A, M1, U1), Driver(B, M2, U1), False),
        # No machine id on one side: another host's, asked from here; a container.
        (Driver(A, "", U1), Driver(B, "", U1), True),
        (Driver(A, "", U1), Driver(B, M1, U1), True),
        (Driver(A, "", U1), Driver(A, "", U2), True),
        (Driver(A, "", U1), Driver(B, "", U2), False),
        # Names alone: what pmuconf 0.1 wrote. Without the domain if we know that this host is meant.
        (Driver(LONG), Driver(A, M1, U1), True),
        (Driver(LONG), Driver(ELSEWHERE, M1), True),
        (Driver(LONG), Driver(ELSEWHERE), False),
        (Driver(LONG), Driver(A), True),
        (Driver(LONG.upper().replace("QEMU", "qemu").replace("/SYSTEM", "/system")), Driver(A), True),
        (Driver(A), Driver(B, M1, U1), False),
        # Another driver of the same host.
        (Driver("qemu://a/session", M1), Driver(A, M1), False),
        (Driver("qemu://a/embed?root=/x", M1), Driver("qemu://a/embed?root=/y", M1), False),
        # What is no driver of libvirt's has its name alone.
        (Driver("openstack:https://cloud#one"), Driver("openstack:https://cloud#one"), True),
        (Driver("openstack:https://cloud#one"), Driver("openstack:https://cloud#two"), False),
    ],
)
def test_which_drivers_are_the_same(one: Driver, other: Driver, same: bool) -> None:
    assert one.same(other) is same
    assert other.same(one) is same


def test_every_driver_is_the_same_as_itself() -> None:
    for uri, machine, uuid in itertools.product((A, LONG, "openstack:x#y"), ("", M1), ("", U1)):
        assert Driver(uri, machine, uuid).same(Driver(uri, machine, uuid))


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("qemu:///system", "qemu://h/system"),
        ("qemu+unix:///system?socket=/run/s", "qemu://h/system"),
        ("qemu+ssh://root@far:22/system?no_verify=1", "qemu://h/system"),
        ("qemu:///embed?root=/x", "qemu://h/embed?root=/x"),
    ],
)
def test_the_transport_is_no_part_of_a_driver(uri: str, named: str) -> None:
    assert driver_uri(uri, "h") == named


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (f"{M1}\n", M1),
        ("ABCDEF00" * 4, "abcdef00" * 4),
        ("uninitialized\n", ""),
        ("", ""),
        ("0" * 32, ""),
        ("1" * 31, ""),
        ("1" * 33, ""),
        ("\xff" * 32, ""),
        ("1" * 2000, ""),
    ],
)
def test_what_is_a_machine_id(tmp_path: Path, text: str, known: str) -> None:
    (tmp_path / "machine-id").write_text(text, encoding="latin-1")
    assert machine_id(str(tmp_path / "machine-id")) == known


def test_a_machine_without_an_id(tmp_path: Path) -> None:
    assert machine_id(str(tmp_path / "none")) == ""


class Connection:
    """A libvirt that has this text of capabilities, and whose counters are ahead of ours, in nanoseconds."""

    def __init__(self, capabilities: str = "", user: int = 0, kernel: int = 0, memory: int = 0) -> None:
        self._capabilities, self._user, self._kernel, self._more = capabilities, user, kernel, memory

    def getCapabilities(self) -> str:
        return self._capabilities

    def getCPUStats(self, *_: int) -> dict[str, int]:
        spent = driver._spent()
        assert spent is not None
        return {"user": spent[0] + self._user, "kernel": spent[1] + self._kernel}

    def getMemoryStats(self, *_: int) -> dict[str, int]:
        return {"total": (driver._memory() or 0) + self._more}


def connection(**given: Any) -> Any:
    return Connection(**given)


def test_one_kernel_counts_one_time() -> None:
    assert same_kernel(connection()) is True


@pytest.mark.parametrize("more", [{"user": 10**9}, {"user": -(10**9)}, {"kernel": 10**9}, {"memory": 4}])
def test_another_kernel_counts_another(more: dict[str, int]) -> None:
    assert same_kernel(connection(**more)) is False


def test_where_our_own_time_cannot_be_read_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    told = connection()
    told.getCPUStats = lambda *_: {"user": 0, "kernel": 0}
    monkeypatch.setattr(driver, "_spent", lambda: None)
    assert same_kernel(told) is None


def test_libvirts_uuid_of_its_host() -> None:
    uuid = "6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10"
    told = f"<capabilities>\n\n  <host>\n    <uuid>{uuid}</uuid>\n    <cpu/></host><guest/></capabilities>"
    assert host_uuid(connection(capabilities=told)) == uuid
    assert host_uuid(connection(capabilities="<capabilities><host><cpu/></host></capabilities>")) == ""
