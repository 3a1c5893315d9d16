"""The lab's cloud as the tests use it: servers, flavors, the plugin installed and taken away."""

from __future__ import annotations

import subprocess
import time
import urllib.error
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lxml import etree

from tests.openstack import lab

POLICY = """\
[policy]
rules = perf, tenant

[rule:perf]
flavor = perf.*
pmu = on

[rule:tenant]
project = {project}
flavor = tenant.*
pmu = keep
"""
_ETC = lab.LAB / "root/etc"


class Cloud:
    """An administrator's view, and that of the compute host's operator."""

    def __init__(self, folder: Path, wheels: Sequence[str]) -> None:
        self.folder = folder
        self.wheels = wheels
        self.api = lab.Api()
        # Without mechanism drivers, Neutron's first query for ports fails unless another one went before.
        self.api("GET", "network", "/v2.0/networks")
        # Of an earlier run, in a lab that was kept.
        self.delete([entry["id"] for entry in self.api("GET", "compute", "/servers")["servers"]])
        for entry in self.api("GET", "image", "/v2/images")["images"]:
            self.api("DELETE", "image", f"/v2/images/{entry['id']}")
        self.image = self.make_image("plain")

    def make_image(self, name: str, **properties: str) -> str:
        """An image of the guest; its id."""
        disk = self.folder / "guest.raw"
        if not disk.exists():
            source = Path(__file__).with_name("guest.S")
            program = self.folder / "guest.o"
            subprocess.run(["as", "--32", "-o", program, source], check=True)
            subprocess.run(
                ["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary", "-o", disk, program], check=True
            )
            with disk.open("r+b") as file:
                file.truncate(1 << 20)
        body = {"name": name, "disk_format": "raw", "container_format": "bare", "visibility": "public", **properties}
        number = str(self.api("POST", "image", "/v2/images", body)["id"])
        self.api("PUT", "image", f"/v2/images/{number}/file", data=disk.read_bytes())
        return number

    def flavor(self, name: str, specs: Mapping[str, str] | None = None) -> str:
        """A flavor; its id."""
        body = {"flavor": {"name": name, "ram": 64, "vcpus": 1, "disk": 1, "id": name}}
        with suppress(urllib.error.HTTPError):  # left by an earlier run in a lab that was kept
            self.api("DELETE", "compute", f"/flavors/{name}")
        number = str(self.api("POST", "compute", "/flavors", body)["flavor"]["id"])
        if specs:
            self.api("POST", "compute", f"/flavors/{number}/os-extra_specs", {"extra_specs": dict(specs)})
        return number

    def specs(self, flavor: str) -> dict[str, str]:
        """A flavor's extra specs."""
        found: dict[str, str] = self.api("GET", "compute", f"/flavors/{flavor}/os-extra_specs")["extra_specs"]
        return found

    def build(self, flavor: str, image: str | None = None) -> str:
        """Ask for a server; its id."""
        body = {"server": {"name": flavor, "flavorRef": flavor, "imageRef": image or self.image, "networks": "none"}}
        return str(self.api("POST", "compute", "/servers", body)["server"]["id"])

    def act(self, server: str, action: str, **values: Any) -> None:
        """Ask for an action."""
        self.api("POST", "compute", f"/servers/{server}/action", {action: values or None})

    def show(self, server: str) -> Any:
        """The server as the API has it."""
        return self.api("GET", "compute", f"/servers/{server}")["server"]

    def wait(self, servers: Sequence[str], status: str, seconds: float = 240) -> None:
        """Until all have the status, and nothing is under way with them.

        :param seconds: without any progress of any of them, after which it is given up; a busy machine takes longer.
        """
        left, seen = list(servers), None
        end = time.monotonic() + seconds
        while left:
            shown = [self.show(server) for server in left]
            now = [(one["status"], one["OS-EXT-STS:task_state"], one["updated"]) for one in shown]
            if now != seen:
                seen, end = now, time.monotonic() + seconds
            for one in shown:
                # Without a fault it is one that the API does not find in its cell yet.
                if one["status"] == "ERROR" and status != "ERROR" and one.get("fault"):
                    raise AssertionError(f"{one['name']} is in error: {one['fault']}")
            left = [one["id"] for one in shown if (one["status"], one["OS-EXT-STS:task_state"]) != (status, None)]
            if time.monotonic() > end:
                raise AssertionError(f"of {now}, not all are {status}: {seconds:.0f} s without a change")
            time.sleep(0.5)

    def delete(self, servers: Sequence[str]) -> None:
        """Delete servers, to the end."""
        for server in servers:
            self.api("DELETE", "compute", f"/servers/{server}")
        end = time.monotonic() + 120
        for server in servers:
            while time.monotonic() < end:
                try:
                    self.show(server)
                except urllib.error.HTTPError:
                    break
                time.sleep(0.5)

    def xml(self, server: str, *, inactive: bool = False) -> str:
        """The domain, as libvirt has it."""
        options = ["--inactive"] if inactive else []
        return lab.call("virsh", "-q", "-c", "qemu:///system", "dumpxml", server, *options)

    def pmu(self, server: str) -> str:
        """The PMU state of the domain: on, off or default."""
        element = etree.fromstring(self.xml(server)).find("features/pmu")
        return "default" if element is None else str(element.get("state"))

    def process_has_pmu_off(self, server: str) -> bool:
        """What QEMU itself was told: the command line of the server's process."""
        return "pmu=off" in lab.call("pgrep", "-af", server)

    def install(self) -> None:
        """The plugin, as docs/nova.md says for packages."""
        pip = ("/usr/bin/python3", "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--break-system-packages")
        lab.call(*pip, "--root-user-action=ignore", *self.wheels)

    def uninstall(self) -> None:
        """Take it away."""
        pip = ("/usr/bin/python3", "-m", "pip", "uninstall", "-q", "-y", "--break-system-packages")
        lab.call(*pip, "--root-user-action=ignore", "pmuconf-nova", "pmuconf")

    def configure(self, driver: str, libvirt: str = "virt_type = qemu", **options: str) -> None:
        """Write nova-compute.conf and restart nova-compute."""
        folder = _ETC / "nova/pmuconf"
        folder.mkdir(exist_ok=True)
        (folder / "pmuconf.conf").write_text(POLICY.format(project=self.api.project))
        options = {"policy_file": "/etc/nova/pmuconf/pmuconf.conf", **options}
        group = "".join(f"{name} = {value}\n" for name, value in options.items())
        (_ETC / "nova/nova-compute.conf").write_text(
            f"[DEFAULT]\ncompute_driver = {driver}\n[libvirt]\n{libvirt}\n[pmuconf]\n{group}"
        )
        before = self._reported()
        lab.compute("restart")
        lab.until("nova-compute", lambda: self._up() and self._reported() != before)

    def _service(self) -> Any:
        services = self.api("GET", "compute", "/os-services?binary=nova-compute")["services"]
        return services[0] if services else {}

    def _reported(self) -> str:
        return str(self._service().get("updated_at"))

    def _up(self) -> bool:
        return bool(self._service().get("state") == "up")

    def traits(self) -> set[str]:
        """The traits of the compute node's provider."""
        (provider,) = self.api("GET", "placement", "/resource_providers")["resource_providers"]
        return set(self.api("GET", "placement", f"/resource_providers/{provider['uuid']}/traits")["traits"])

    def pmuconf(self, *arguments: str, config: str = "") -> tuple[int, str, str]:
        """Run the command against this cloud; exit status, output, errors."""
        import os
        import sys

        path = self.folder / "pmuconf.conf"
        path.write_text(
            (config or POLICY.format(project=self.api.project)) + f"[journal]\npath = {self.folder}/journal\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "pmuconf.commands.main", "--config-file", str(path), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **lab.CLOUD},
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr
