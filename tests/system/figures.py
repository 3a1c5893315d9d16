"""Install the packages on bare Debian systems and on hosts with libvirt, and write what was seen into a page.

``python -m tests.system.figures [SUITE ...]``, as root; the default is all suites. It takes
some minutes. The roots are those of tools/root.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.system.conftest import SUITES, Built, build
from tests.system.machine import Machine
from tests.system.test_packages import files

TREE: Final = Path(__file__).resolve().parents[2]
PAGE: Final = "docs/first-install.md"
NAMES: Final = {"bookworm": "Debian 12", "trixie": "Debian 13"}
AT: Final = "http://127.0.0.1:9754"
DOMAINS: Final = 20
HEALTHY: Final = f"""\
import time, urllib.request
end = time.monotonic() + 120
while time.monotonic() < end:
    try:
        urllib.request.urlopen("{AT}/healthz")
        raise SystemExit
    except OSError:
        time.sleep(0.02)
raise SystemExit("it does not become healthy")
"""
_KEPT: Final = re.compile(
    r"^# |pmuconf|newly installed|^Need to get|^After this operation|VMs|^off policy|^nothing to do"
)
_DROPPED: Final = re.compile(r"^(  |Selecting|Preparing to|Unpacking|Get:)")
HEAD: Final = """\
# What an installation looks like

**What will I see when I install it, and how long does it take?** Below is what two commands print on a Debian
that has systemd and nothing else, and what a purge leaves. `python -m tests.system.figures` makes this page:
it boots the systems in containers. Packages were fetched before.
"""


@dataclass(frozen=True)
class Seen:
    """What was seen on one Debian."""

    sizes: str
    numbers: str
    fetched: str
    fetched_with_recommended: str
    seconds: float
    healthy: float
    reaction: str
    files: str
    transcript: str


def main() -> int:
    seen = {}
    for suite in sys.argv[1:] or SUITES:
        folder = Path(tempfile.mkdtemp(prefix=f"figures-{suite}-"))
        try:
            seen[suite] = _see(suite, folder)
        finally:
            shutil.rmtree(folder)
    (TREE / PAGE).write_text(_page(seen))
    return 0


def _see(suite: str, folder: Path) -> Seen:
    host = build(suite, "host", folder / "host")
    packages = sorted((host.layer / "srv/newer").glob("*.deb"), reverse=True)
    sizes = ", ".join(f"{package.stat().st_size / 1000:.0f} kB" for package in packages)
    with Machine(folder / "machine", [host.layer, host.root]) as machine:
        machine.run("virsh list")  # libvirt makes its folders when it is first used
        before = files(machine)
        recommended = _asked(machine, host, "")
        asked = _asked(machine, host, "--no-install-recommends")
        begin = time.monotonic()
        machine.run(f"apt-get -qq install -y --no-install-recommends {host.newer}/pmuconf_*.deb")
        seconds = time.monotonic() - begin
        healthy = _healthy(machine)
        reaction = _reaction(machine)
        machine.run("apt-get -qq purge -y --autoremove pmuconf")
        after = files(machine)
    differ = sorted(before ^ after)
    of_files = f"{len(before)} before, {len(after)} after, {len(differ)} differ" + "".join(f"; {it}" for it in differ)
    return Seen(
        sizes,
        asked[0],
        asked[1],
        recommended[1],
        seconds,
        healthy,
        reaction,
        of_files,
        _transcript(suite, host, folder),
    )


def _asked(machine: Machine, built: Built, option: str) -> tuple[str, str]:
    """The number of packages, and the sizes, that apt names before it installs."""
    said = machine.result(f"apt-get install --assume-no {option} {built.newer}/pmuconf_*.deb").stdout
    number = re.search(r"(\d+) newly installed", said)
    fetched = re.search(r"Need to get (?:\S+ \S+/)?([\d.,]+ [kM]B)", said)
    on_disk = re.search(r"([\d.,]+ [kM]B) of additional|Space needed: ([\d.,]+ [kM]B)", said)
    assert number, said
    assert fetched, said
    assert on_disk, said
    return str(int(number[1]) - 1), f"{fetched[1]}, {on_disk[1] or on_disk[2]}"


def _healthy(machine: Machine) -> float:
    """The seconds from ``systemctl enable --now`` to the first healthy answer."""
    machine.write("/root/healthy.py", HEALTHY)
    begin = time.monotonic()
    machine.run("systemctl enable --now pmuconf && python3 /root/healthy.py")
    return time.monotonic() - begin


def _reaction(machine: Machine) -> str:
    """How soon new domains are changed: by the service's own histogram, from libvirt's event to the verified change."""
    machine.run("cp /usr/share/doc/pmuconf/examples/50-pmuconf.rules /etc/polkit-1/rules.d/")
    machine.write("/etc/pmuconf/pmuconf.conf.d/enforce.conf", "[service]\nmode = enforce\ninterval = 3600\n")
    machine.run("systemctl reload pmuconf")
    machine.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_enforces 1'")
    for number in range(DOMAINS):
        machine.write(
            "/root/vm.xml",
            f"<domain type='qemu'><name>vm{number}</name><memory unit='MiB'>64</memory>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features></domain>",
        )
        machine.run("virsh define /root/vm.xml")
        machine.until(f"virsh dumpxml --inactive vm{number} | grep -q \"<pmu state='off'/>\"", 60)
    machine.until(f"curl -fsS {AT}/metrics | grep -q '^pmuconf_service_reaction_seconds_count {DOMAINS}'", 60)
    metrics = machine.run(f"curl -fsS {AT}/metrics")
    total = re.search(r"^pmuconf_service_reaction_seconds_sum (\S+)", metrics, re.MULTILINE)
    bounds = re.findall(r'^pmuconf_service_reaction_seconds_bucket\{le="([^"]+)"\} (\S+)', metrics, re.MULTILINE)
    assert total
    slowest = next(bound for bound, number in bounds if float(number) >= DOMAINS)
    machine.run(f"for at in $(seq 0 {DOMAINS - 1}); do virsh undefine vm$at; done")
    machine.run("rm /etc/polkit-1/rules.d/50-pmuconf.rules /etc/pmuconf/pmuconf.conf.d/enforce.conf")
    return f"{float(total[1]) / DOMAINS:.2f} s on average, none above {slowest} s"


def _transcript(suite: str, host: Built, folder: Path) -> str:
    """What the two commands print on a bare system, and what the service says then."""
    bare = build(suite, "bare", folder / "bare", host.layer / "srv/newer")
    machine = Machine(folder / "bare-machine", [bare.layer, bare.root])
    machine.prepare("sh", "-euc", f"cp {bare.newer}/pmuconf_*.deb /root")
    with machine:
        (package,) = machine.run("ls /root").split()
        machine.write("/root/healthy.py", HEALTHY)
        lines: list[str] = []
        for command, after in (
            (f"apt install -y ./{package}", ""),
            ("systemctl enable --now pmuconf", "python3 /root/healthy.py"),
            ("pmuconf status", ""),
        ):
            ran = machine.result(f"{command} 2>&1")
            assert ran.returncode in (0, 1, 2), ran.stdout
            lines += [f"# {command}", *_shown(ran.stdout.splitlines())]
            if after:
                machine.run(after)
    return "\n".join(lines)


def _shown(lines: Iterable[str]) -> list[str]:
    """The lines that are about pmuconf, or about the whole; the others are three dots."""
    shown: list[str] = []
    for line in lines:
        if _KEPT.search(line) and not _DROPPED.match(line):
            shown.append(line)
        elif shown[-1:] != ["..."]:
            shown.append("...")
    return shown


def _page(seen: dict[str, Seen]) -> str:
    rows = {
        "package `pmuconf`, `pmuconf-nova`": [one.sizes for one in seen.values()],
        "packages that come with it, Python included": [one.numbers for one in seen.values()],
        "to fetch, on disk": [one.fetched for one in seen.values()],
        "with recommended packages: to fetch, on disk": [one.fetched_with_recommended for one in seen.values()],
        "installation": [f"{one.seconds:.0f} s" for one in seen.values()],
        "from `systemctl enable --now` to the first healthy answer": [f"{one.healthy:.1f} s" for one in seen.values()],
        f"from a new domain's event to its change, {DOMAINS} domains": [one.reaction for one in seen.values()],
        "files, without those that change by themselves": [one.files for one in seen.values()],
    }
    load = ", ".join(f"{one:.0f}" for one in os.getloadavg())
    table = [f"| | {' | '.join(NAMES[suite] for suite in seen)} |", f"|---|{'---|' * len(seen)}"]
    table += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    parts = [
        HEAD,
        "## Sizes and times\n",
        "On a host with libvirt and without Python, with `--no-install-recommends` unless the row says otherwise. The\n"
        "last row compares the host before the installation with the host after the purge: each file's kind, mode and\n"
        f"owner, and the contents of `/etc`. The machine had 2 cores, and a load of {load} (1, 5 and 15 minutes).\n",
        "\n".join(table) + "\n",
    ]
    for suite, one in seen.items():
        parts += [
            f"## {NAMES[suite]}\n",
            "`...` stands for lines about other packages and about the host's kernel.\n",
            "<!-- run by tests/system/figures.py -->",
            f"```text\n{one.transcript}\n```\n",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
