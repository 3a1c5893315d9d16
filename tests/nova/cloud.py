"""A whole Nova in this process, by Nova's own fixtures: API, scheduler, conductor, placement and computes, with the
plugin as their driver; only libvirt, images and networks are fake.

Nova's fake libvirt forgets a domain's features. Here it keeps ``<pmu>`` over whatever is done with the domain, as the
real one does, and every definition that it is given.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import fixtures
from lxml import etree
from nova import context as nova_context
from nova import objects
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.libvirt import base
from nova.virt.libvirt import driver as libvirt_driver

STOCK = "libvirt.LibvirtDriver"
PLUGIN = "pmuconf.LibvirtDriver"

POLICY = """\
[policy]
default = off
rules = perf, tenant, mixed, flagged, image

[rule:perf]
flavor = perf.*
pmu = on

[rule:tenant]
project = {project}
flavor = tenant.*
pmu = keep

[rule:mixed]
flavor_id = the-id
domain = instance-*
virt_type = qemu, kvm
pmu = on

[rule:flagged]
extra_spec = trait:CUSTOM_PERF=req*
pmu = on

[rule:image]
image_property = os_distro=debian
pmu = on
"""
PROJECT = "6f70656e737461636b20342065766572"  # of the users of Nova's functional tests


def pmu_of(xml: str) -> str:
    """The PMU state in a domain XML: on, off or default."""
    found = etree.fromstring(xml).findall("features/pmu")
    assert len(found) <= 1, xml
    return str(found[0].get("state")) if found else "default"


class UnderPytest:
    """Nova's test cases forget all their attributes at the end, and pytest takes one away itself."""

    def __delattr__(self, name: str) -> None:
        with suppress(AttributeError):
            super().__delattr__(name)


class Cloud(UnderPytest, base.ServersTestBase):  # type: ignore[misc]
    """Base of the tests: self.given[uuid] are the definitions that libvirt was given, in order."""

    microversion = "latest"
    ADMIN_API = True
    compute_driver = PLUGIN
    policy_text = POLICY

    def setUp(self) -> None:
        self.given: dict[str, list[str]] = defaultdict(list)
        self.folder = Path(self.useFixture(fixtures.TempDir()).path)
        self.policy_file = self.folder / "pmuconf.conf"
        self.policy_file.write_text(self.policy_text.format(project=PROJECT))
        # Nova's fixtures look for it in the source tree; the environment has it where Nova's packages put it.
        self.flags(api_paste_config=f"{sys.prefix}/etc/nova/api-paste.ini", group="wsgi")
        super().setUp()
        # Nova's fixtures make errors of these; which there are depends on a SQLAlchemy newer than Nova's constraints.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        self.context = nova_context.get_admin_context()
        self._keep_features()

    def _setup_compute_service(self) -> None:
        self.use(self.compute_driver)

    def use(self, driver: str) -> None:
        """What computes that are started from now on have as their driver."""
        self.flags(compute_driver=driver)
        if driver == PLUGIN:
            # Registers the options; nova-compute loads the driver before it reads them.
            from nova.virt import pmuconf  # noqa: F401

            self.flags(policy_file=str(self.policy_file), group="pmuconf")

    def _keep_features(self) -> None:
        given = self.given
        for name in ("defineXML", "createXML"):
            original = getattr(fakelibvirt.Connection, name)

            def hold(connection: Any, xml: str, *args: Any, original: Any = original) -> Any:
                text = xml.decode() if isinstance(xml, bytes) else xml
                given[str(etree.fromstring(text).findtext("uuid"))].append(text)
                return original(connection, xml, *args)

            self.useFixture(fixtures.MonkeyPatch(f"nova.tests.fixtures.libvirt.Connection.{name}", hold))
        describe = fakelibvirt.Domain.XMLDesc

        def described(domain: Any, flags: int) -> Any:
            state = pmu_of(given[domain.UUIDString()][-1])
            element = "" if state == "default" else f"<pmu state='{state}'/>"
            return describe(domain, flags).replace("<features>", f"<features>{element}", 1)

        self.useFixture(fixtures.MonkeyPatch("nova.tests.fixtures.libvirt.Domain.XMLDesc", described))

    def flavor(self, name: str, specs: Mapping[str, str] | None = None, **values: Any) -> str:
        """Make a flavor of this name; its id."""
        body = {"id": f"id-of-{name}", **values}
        made: str = self._create_flavor(name=name, extra_spec=dict(specs or {}) or None, **body)
        return made

    def image(self, **properties: str) -> str:
        """Make an image with these properties; its id."""
        made = copy.deepcopy(self.glance.image1)
        made["id"] = str(uuid4())
        made["properties"].update(properties)
        self.glance.create(self.context, made)
        return str(made["id"])

    def build(self, flavor: str, **values: Any) -> Any:
        """Build a server on the first compute."""
        if not self.computes:
            self.start_compute()
        return self._create_server(flavor_id=flavor, networks="none", **values)

    def pmu(self, server: Any) -> str:
        """The PMU state in the definition that libvirt was given last."""
        return pmu_of(self.given[server["id"]][-1])

    def instance(self, server: Any) -> Any:
        """The server as the database has it."""
        return objects.Instance.get_by_uuid(self.context, server["id"], expected_attrs=["flavor", "system_metadata"])

    @property
    def stock(self) -> type:
        """Nova's own driver."""
        driver: type = libvirt_driver.LibvirtDriver
        return driver
