"""Nova's generator of domains alone, by Nova's own fixtures: an instance in, a domain XML out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import fixtures
import nova.test
import os_vif
from nova import context as nova_context
from nova import objects
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit import fake_instance
from nova.virt import driver as virt_driver
from nova.virt import fake
from nova.virt.libvirt import blockinfo

from tests.nova.cloud import PLUGIN, POLICY, PROJECT, STOCK, UnderPytest

# When it was generated is all that differs between two domains of one instance.
_TIME = re.compile("<nova:creationTime>.*?</nova:creationTime>")

UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


class Generator(UnderPytest, nova.test.NoDBTestCase):  # type: ignore[misc]
    """Base of the tests: self.driver is the plugin and self.stock Nova's driver, both loaded as nova-compute does."""

    def setUp(self) -> None:
        super().setUp()
        folder = self.useFixture(fixtures.TempDir()).path
        self.flags(instances_path=folder)
        self.flags(sysinfo_serial="none", virt_type="kvm", group="libvirt")
        os_vif.initialize()
        self.libvirt = self.useFixture(nova_fixtures.LibvirtFixture())
        if hasattr(nova_fixtures, "CGroupsFixture"):  # since 27.0.0; 26.0.0 does not look at the machine's cgroups
            self.useFixture(nova_fixtures.CGroupsFixture())
        self.useFixture(nova_fixtures.GlanceFixture(self))
        self.stock = virt_driver.load_compute_driver(fake.FakeVirtAPI(), STOCK)
        self.driver = virt_driver.load_compute_driver(fake.FakeVirtAPI(), PLUGIN)
        self.policy_file = Path(folder) / "pmuconf.conf"
        self.set_policy(POLICY.format(project=PROJECT))
        self.flags(policy_file=str(self.policy_file), group="pmuconf")
        self.context = nova_context.get_admin_context()

    def set_policy(self, text: str) -> None:
        """Write the policy file."""
        self.policy_file.write_text(text)

    def instance(
        self,
        flavor: str = "m1.small",
        specs: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        *,
        flavor_id: str = "1",
        project: str = "another",
        system_metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """An instance as the database has it, with this flavor and image."""
        made = fake_instance.fake_instance_obj(
            self.context,
            id=42,
            uuid=UUID,
            project_id=project,
            user_id="user",
            display_name="display",
            image_ref="155d900f-4e14-4e4c-a73d-069cbf4541e6",
            os_type="linux",
            root_device_name="/dev/vda",
            expected_attrs=["system_metadata", "flavor", "numa_topology"],
        )
        made.flavor = objects.Flavor(
            id=1,
            name=flavor,
            flavorid=flavor_id,
            memory_mb=128,
            vcpus=1,
            root_gb=1,
            ephemeral_gb=0,
            swap=0,
            extra_specs=dict(specs or {}),
            vcpu_weight=None,
            rxtx_factor=1.0,
            is_public=True,
            disabled=False,
        )
        image = {f"image_{name}": value for name, value in (properties or {}).items()}
        made.system_metadata = {
            **image,
            "image_disk_format": "raw",
            "image_hw_machine_type": "pc",
            **(system_metadata or {}),
        }
        made.info_cache = None
        made.numa_topology = None
        made.metadata = {}
        made.trusted_certs = None
        made.resources = None
        made.pci_requests = objects.InstancePCIRequests(requests=[])
        made.pci_devices = objects.PciDeviceList(objects=[])
        made.vcpu_model = None
        made.device_metadata = None
        made.keypairs = objects.KeyPairList(objects=[])
        return made

    def xml(self, instance: Any, driver: Any = None, **more: Any) -> str:
        """What the driver generates for the instance; the plugin unless another is named."""
        image_meta = more.pop("image_meta", None) or instance.image_meta
        info = blockinfo.get_disk_info("kvm", instance, image_meta, rescue="rescue" in more)
        with mock.patch.object(objects.BlockDeviceMappingList, "get_by_instance_uuid", return_value=[]):
            made: str = (driver or self.driver)._get_guest_xml(self.context, instance, [], info, image_meta, **more)
        return _TIME.sub("", made)
