"""TDX guests, told by QEMU's command line and by the definition."""

from __future__ import annotations

import pytest

from pmuconf.domain.reading import read, read_libvirt
from pmuconf.host.confidential import is_tdx
from pmuconf.host.vms.qemu_args import parse_args

MACHINE = ("-machine", "q35,kernel-irqchip=split,confidential-guest-support=lsec0")
AS_JSON = ("-object", '{"qom-type":"tdx-guest","id":"lsec0","quote-generation-socket":{"type":"vsock"}}')
AS_KEYS = ("--object", "tdx-guest,id=lsec0")
SEV = ("-object", '{"qom-type":"sev-snp-guest","id":"lsec0","cbitpos":51}')


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), False),
        (("-machine", "q35"), False),
        ((*MACHINE, *AS_JSON), True),
        ((*AS_KEYS, *MACHINE), True),
        ((*MACHINE, "-object", "qom-type=tdx-guest,id=lsec0"), True),
        (("-M", "confidential-guest-support=a,,b", "-object", "tdx-guest,id=a,,b"), True),
        ((*MACHINE, *SEV), False),
        (("-machine", "q35,memory-encryption=sev0", "-object", "sev-guest,id=sev0"), False),
        (MACHINE, None),  # the object is in a file, or of a kind that is not known
        (AS_JSON, None),  # the machine's property is
        ((*MACHINE, "-object", "cca-guest,id=lsec0"), None),
        ((*MACHINE, *AS_JSON, *SEV), None),
        ((*MACHINE, "-machine", "confidential-guest-support=other", *AS_JSON), None),
        ((*MACHINE, "-object", '{"qom-type":'), None),
        ((*MACHINE, "-object", "{" * 100_000), None),
        (("-name", "tdx-guest,id=lsec0"), False),
        (("-object", "memory-backend-ram,id=ram"), False),
        (("-object",), False),
    ],
)
def test_by_the_command_line(words: tuple[str, ...], said: bool | None) -> None:
    assert is_tdx(["qemu-system-x86_64", *words, "-S"]) is said


def test_it_is_said_of_the_process() -> None:
    words = ("/usr/bin/qemu-system-x86_64", *MACHINE, *AS_JSON, "-cpu", "host,pmu=on")
    args = parse_args(b"".join(word.encode() + b"\0" for word in words))
    assert args is not None
    assert (args.pmu, args.tdx, args.may_be_recreated) == (True, True, True)


DOMAIN = """<domain type='kvm'>
  <name>web</name>
  <os>
    <type arch='x86_64'>hvm</type>
  </os>
  <devices>
  </devices>
  <launchSecurity{}/>
</domain>
"""


@pytest.mark.parametrize(("said", "tdx"), [(" type='tdx'", True), (" type='sev-snp'", False), ("", False)])
def test_by_the_definition(said: str, tdx: bool) -> None:
    xml = DOMAIN.format(said)
    assert read(xml).tdx is tdx
    assert read_libvirt(xml) == read(xml)
