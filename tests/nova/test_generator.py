"""What the plugin makes of a domain: by policy, by explicit choice, and when something of it is broken."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import pytest
from nova import exception, objects
from nova.virt.libvirt import config as vconfig
from pmuconf_nova import driver as plugin
from pmuconf_nova import record
from pmuconf_nova.driver import PmuPolicyFailed

from pmuconf.errors import PmuconfError
from pmuconf.policy import decide
from tests.nova.cloud import PROJECT, pmu_of
from tests.nova.generator import UUID, Generator


class TestDecision(Generator):
    """Every row of the policy, on Nova's own objects."""

    def decided(self, *args: Any, **kwargs: Any) -> str:
        return pmu_of(self.xml(self.instance(*args, **kwargs)))

    def test_off_where_nobody_asks_for_anything(self) -> None:
        assert self.decided() == "off"

    def test_stock_nova_leaves_it_to_the_hypervisor(self) -> None:
        assert pmu_of(self.xml(self.instance(), self.stock)) == "default"

    def test_each_criterion_of_a_rule(self) -> None:
        assert self.decided("perf.large") == "on"
        assert self.decided("tenant.a", project=PROJECT) == "default"
        assert self.decided("tenant.a", project="another") == "off"
        assert self.decided(flavor_id="the-id") == "on"
        assert self.decided(specs={"trait:CUSTOM_PERF": "required"}) == "on"
        assert self.decided(specs={"trait:CUSTOM_PERF": "forbidden"}) == "off"
        assert self.decided(properties={"os_distro": "debian"}) == "on"
        assert self.decided(properties={"os_distro": "fedora"}) == "off"

    def test_domains_are_known_by_their_uuid_and_by_their_name_as_libvirt_has_it(self) -> None:
        for criterion in (UUID, UUID.upper(), "instance-0000002a", "instance-*2a"):
            self.set_policy(f"[policy]\nrules = one\n[rule:one]\npmu = on\ndomain = {criterion}\n")
            assert self.decided() == "on", criterion
        self.set_policy("[policy]\nrules = one\n[rule:one]\npmu = on\ndomain = display\n")
        assert self.decided() == "off"

    def test_the_default_may_be_on_or_keep(self) -> None:
        for default, state in (("on", "on"), ("keep", "default"), ("off", "off")):
            self.set_policy(f"[policy]\ndefault = {default}\n")
            assert self.decided() == state

    def test_an_explicit_choice_beats_every_rule_and_is_nova_s_own(self) -> None:
        for text, state in (
            ("true", "on"),
            ("false", "off"),
            ("Yes", "on"),
            ("0", "off"),
            ("garbage", "off"),
            ("", "off"),
        ):
            for flavor in ("m1.small", "perf.large"):
                instance = self.instance(flavor, {"hw:pmu": text})
                assert self.xml(instance) == self.xml(instance, self.stock)
                assert pmu_of(self.xml(instance)) == state
        for text, state in (("true", "on"), ("False", "off")):
            for flavor in ("m1.small", "perf.large"):
                instance = self.instance(flavor, properties={"hw_pmu": text})
                assert self.xml(instance) == self.xml(instance, self.stock)
                assert pmu_of(self.xml(instance)) == state

    def test_a_conflict_of_flavor_and_image_is_refused_as_by_nova(self) -> None:
        instance = self.instance(specs={"hw:pmu": "true"}, properties={"hw_pmu": "false", "name": "image"})
        image_meta = instance.image_meta
        image_meta.name = "image"
        for driver in (self.stock, self.driver):
            with pytest.raises(exception.FlavorImageConflict):
                self.xml(instance, driver, image_meta=image_meta)

    def test_a_conflict_where_the_image_s_name_is_not_loaded_fails_as_it_does_in_nova(self) -> None:
        errors = []
        for driver in (self.stock, self.driver):
            instance = self.instance(specs={"hw:pmu": "true"}, properties={"hw_pmu": "false"})
            with pytest.raises(Exception) as caught:  # noqa: PT011  # whichever this Nova raises
                self.xml(instance, driver)
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]

    def test_another_architecture_is_left_as_nova_has_it(self) -> None:
        for arch in ("ppc64le", "aarch64", "s390x"):
            properties = {"hw_emulation_architecture": arch}
            kept = {"hw_architecture": arch}
            for given in (properties, kept):
                made = []
                for driver in (self.stock, self.driver):
                    instance = self.instance(properties=given)
                    guest = vconfig.LibvirtConfigGuest()
                    driver._set_features(guest, "linux", instance.image_meta, instance.flavor)
                    made.append([feature.to_xml() for feature in guest.features])
                assert made[0] == made[1]
                assert "pmu" not in "".join(made[0])

    def test_other_hypervisors_are_left_as_nova_has_them(self) -> None:
        for virt_type in ("lxc", "parallels"):
            self.flags(virt_type=virt_type, group="libvirt")
            instance = self.instance()
            made = []
            for driver in (self.stock, self.driver):
                guest = vconfig.LibvirtConfigGuest()
                driver._set_features(guest, "linux", instance.image_meta, instance.flavor)
                made.append([feature.to_xml() for feature in guest.features])
            assert made[0] == made[1]
        self.flags(virt_type="qemu", group="libvirt")
        guest = vconfig.LibvirtConfigGuest()
        self.driver._set_features(guest, "linux", instance.image_meta, instance.flavor)
        assert guest.features[-1].to_xml().strip() == '<pmu state="off"/>'

    def test_the_type_that_a_rule_asks_for_is_the_guest_s_own(self) -> None:
        """Which is qemu where Nova emulates: an audit of the domain sees, and decides upon, the same."""
        self.set_policy("[policy]\nrules = emulated\n[rule:emulated]\npmu = on\nvirt_type = qemu\n")
        assert self.decided() == "off"
        emulated = self.xml(self.instance(properties={"hw_architecture": "i686"}))
        assert emulated.startswith('<domain type="qemu">')
        assert pmu_of(emulated) == "on"

    def test_only_the_pmu_is_added(self) -> None:
        instance = self.instance()
        with_it, without = self.xml(instance), self.xml(instance, self.stock)
        assert with_it != without
        assert with_it.replace('    <pmu state="off"/>\n', "") == without

    def test_without_an_instance_a_rule_about_projects_leaves_it_undecided(self) -> None:
        for flavor, expected in (("tenant.a", 0), ("m1.small", 1)):
            instance = self.instance(flavor)
            guest = vconfig.LibvirtConfigGuest()
            guest.name, guest.uuid = instance.name, instance.uuid
            self.driver._set_features(guest, "linux", instance.image_meta, instance.flavor)
            assert [feature.root_name for feature in guest.features].count("pmu") == expected


class TestTrouble(Generator):
    """An error of ours leaves Nova's output, or with strict fails the operation; it is logged once a cause."""

    def logged(self) -> list[str]:
        return [line for line in self.stdlog.logger.output.splitlines() if "pmuconf: " in line and "DEBUG" not in line]

    def assert_stock(self, instance: Any = None) -> None:
        instance = instance or self.instance()
        assert self.xml(instance) == self.xml(instance, self.stock)

    def test_keep_is_byte_for_byte_nova_s_own(self) -> None:
        self.set_policy("[policy]\ndefault = keep\n")
        for specs in ({}, {"hw:pmu": "true"}, {"hw:pmu": "x"}):
            self.assert_stock(self.instance(specs=specs))

    def test_a_policy_that_can_t_be_read(self) -> None:
        self.policy_file.unlink()
        self.assert_stock()
        self.policy_file.mkdir()
        self.assert_stock()
        self.policy_file.rmdir()
        for text in (b"[policy]\ndefault = maybe\n", b"no configuration", b"\xff\xfe\x00"):
            self.policy_file.write_bytes(text)
            self.assert_stock()
        assert self.driver._pmuconf_failures.counts == {
            "config-missing": 1,
            "config-unreadable": 1,
            "config-invalid": 3,
        }

    def test_every_call_into_pmuconf_may_raise_anything(self) -> None:
        targets = {
            "decide": plugin,
            "subject_of": plugin,
            "_feature": plugin,
            "_explicit": plugin,
            "lift": record,
            "without_record": record,
        }
        for name, holder in targets.items():
            for error in (
                RuntimeError("broken"),
                PmuconfError("broken", cause="broken"),
                RecursionError(),
                MemoryError(),
            ):
                with mock.patch.object(holder, name, side_effect=error) as broken:
                    self.assert_stock()
                assert broken.called, name

    def test_a_feature_that_was_half_added_is_taken_away(self) -> None:
        with mock.patch.object(plugin.LOG, "debug", side_effect=RuntimeError("broken")):
            guest = vconfig.LibvirtConfigGuest()
            instance = self.instance()
            self.flags(strict=True, group="pmuconf")
            with pytest.raises(PmuPolicyFailed):
                self.driver._set_features(guest, "linux", instance.image_meta, instance.flavor)
        assert "pmu" not in [feature.root_name for feature in guest.features]

    def test_logged_once_a_cause_and_counted_and_again_after_it_worked(self) -> None:
        self.set_policy("nonsense")
        for _ in range(5):
            self.xml(self.instance())
        with mock.patch.object(plugin, "decide", side_effect=ZeroDivisionError("broken")):
            self.set_policy("[policy]\n")
            for _ in range(3):
                self.xml(self.instance())
        assert self.driver._pmuconf_failures.counts == {"config-invalid": 5, "ZeroDivisionError": 3}
        first = self.logged()
        assert len([line for line in first if "ERROR" in line]) == 2
        assert sum("config-invalid" in line for line in first) == 1
        self.xml(self.instance())
        assert self.driver._pmuconf_failures.counts == {}
        (again,) = [line for line in self.logged() if "works again" in line]
        assert "3 times ZeroDivisionError, 5 times config-invalid" in again
        self.set_policy("nonsense again")
        self.xml(self.instance())
        assert sum("config-invalid" in line and "ERROR" in line for line in self.logged()) == 2

    def test_strict_fails_the_operation_with_an_exception_of_nova_s_kind(self) -> None:
        self.flags(strict=True, group="pmuconf")
        assert pmu_of(self.xml(self.instance())) == "off"
        self.set_policy("[policy]\ndefault = maybe\n")
        with pytest.raises(PmuPolicyFailed) as caught:
            self.xml(self.instance())
        assert isinstance(caught.value, exception.NovaException)
        for word in ("strict", "config-invalid", str(self.policy_file), "maybe"):
            assert word in str(caught.value)

    def test_an_error_of_nova_s_own_is_nova_s_own(self) -> None:
        self.flags(strict=True, group="pmuconf")
        broken = ValueError("nova's")
        with (
            mock.patch.object(self.stock.__class__, "_set_features", side_effect=broken),
            pytest.raises(ValueError, match="nova's") as caught,
        ):
            self.xml(self.instance())
        assert caught.value is broken
        assert self.driver._pmuconf_failures.counts == {}

    def test_the_policy_is_read_again_when_it_changes_and_only_then(self) -> None:
        assert pmu_of(self.xml(self.instance())) == "off"
        with mock.patch("pmuconf.conf.load", side_effect=AssertionError("read again")):
            assert pmu_of(self.xml(self.instance())) == "off"
        self.set_policy("[policy]\ndefault = on\n")
        assert pmu_of(self.xml(self.instance())) == "on"
        other = self.policy_file.with_name("other")
        other.write_text("[policy]\ndefault = off\n")
        os.replace(other, self.policy_file)
        assert pmu_of(self.xml(self.instance())) == "off"

    def test_a_broken_policy_is_not_parsed_at_every_build(self) -> None:
        self.set_policy("nonsense")
        self.assert_stock()
        with mock.patch("pmuconf.conf.load", side_effect=AssertionError("read again")):
            self.assert_stock()
        assert self.driver._pmuconf_failures.counts == {"config-invalid": 2}


class TestRecord(Generator):
    """The decision in the instance, for hosts without the plugin."""

    def built(self, instance: Any, where: str, **more: Any) -> str:
        self.flags(record_decision=where, group="pmuconf")
        return pmu_of(self.xml(instance, **more))

    def test_none_unless_asked_for(self) -> None:
        instance = self.instance()
        before = dict(instance.system_metadata)
        assert self.built(instance, "no") == "off"
        assert instance.flavor.extra_specs == {}
        assert instance.system_metadata == before

    def test_a_host_without_the_plugin_keeps_it(self) -> None:
        for where in ("flavor", "image"):
            for flavor, state in (("m1.small", "off"), ("perf.a", "on")):
                instance = self.instance(flavor)
                assert self.built(instance, where) == state
                assert pmu_of(self.xml(instance, self.stock)) == state

    def test_the_flavor_s_record_is_seen_as_a_change_and_so_saved(self) -> None:
        instance = self.instance()
        instance.obj_reset_changes(recursive=True)
        self.built(instance, "flavor")
        assert "flavor" in instance.obj_what_changed()
        instance.obj_reset_changes(recursive=True)
        self.built(instance, "image")
        assert {"flavor", "system_metadata"} <= instance.obj_what_changed()

    def test_explicit_choices_and_keep_are_not_recorded(self) -> None:
        for where in ("flavor", "image"):
            for made in (
                self.instance(specs={"hw:pmu": "true"}),
                self.instance(properties={"hw_pmu": "true"}),
                self.instance("tenant.a", project=PROJECT),
            ):
                specs, image = dict(made.flavor.extra_specs), made.system_metadata.get("image_hw_pmu")
                self.built(made, where)
                assert made.flavor.extra_specs == specs
                assert made.system_metadata.get("image_hw_pmu") == image

    def test_our_own_record_is_no_choice_the_policy_still_decides(self) -> None:
        for where in ("flavor", "image"):
            instance = self.instance()
            assert self.built(instance, where) == "off"
            self.set_policy("[policy]\ndefault = on\n")
            assert self.built(instance, where) == "on"
            assert pmu_of(self.xml(instance, self.stock)) == "on"
            self.set_policy("[policy]\ndefault = keep\n")
            assert self.built(instance, where) == "default"
            assert pmu_of(self.xml(instance, self.stock)) == "default"
            self.set_policy("[policy]\n")

    def test_switched_off_it_is_taken_away_at_the_next_build(self) -> None:
        for where in ("flavor", "image"):
            instance = self.instance()
            self.built(instance, where)
            self.built(instance, "no")
            assert instance.flavor.extra_specs == {}
            assert not [key for key in instance.system_metadata if "pmu" in key]

    def test_a_record_that_somebody_changed_is_their_choice(self) -> None:
        instance = self.instance()
        self.built(instance, "image")
        instance.system_metadata["image_hw_pmu"] = "true"
        assert self.built(instance, "image") == "on"
        assert instance.system_metadata["image_hw_pmu"] == "true"
        instance = self.instance()
        self.built(instance, "flavor")
        instance.flavor.extra_specs = {**instance.flavor.extra_specs, "hw:pmu": "true"}
        assert self.built(instance, "flavor") == "on"
        assert instance.flavor.extra_specs == {"hw:pmu": "true"}

    def test_a_record_does_not_conflict_with_a_choice_that_is_made_later(self) -> None:
        instance = self.instance()
        self.built(instance, "flavor")
        instance.system_metadata["image_hw_pmu"] = "true"  # a rebuild
        assert self.built(instance, "flavor") == "on"
        assert instance.flavor.extra_specs == {}
        instance = self.instance()
        self.built(instance, "image")
        instance.flavor.extra_specs = {"hw:pmu": "true"}  # a resize
        assert self.built(instance, "image") == "on"
        assert "image_hw_pmu" not in instance.system_metadata

    def test_a_rescue_neither_writes_nor_takes_a_record(self) -> None:
        rescue = objects.ImageMeta.from_dict({"disk_format": "raw", "properties": {}})
        arguments = {"rescue": {"image_id": "r", "kernel_id": None, "ramdisk_id": None}, "image_meta": rescue}
        for where in ("flavor", "image"):
            instance = self.instance()
            assert self.built(instance, where, **arguments) == "off"
            assert instance.flavor.extra_specs == {}
            assert "image_hw_pmu" not in instance.system_metadata
            self.built(instance, where)
            specs, metadata = dict(instance.flavor.extra_specs), dict(instance.system_metadata)
            assert self.built(instance, where, **arguments) == "off"
            assert (instance.flavor.extra_specs, instance.system_metadata) == (specs, metadata)

    def test_where_the_policy_fails_the_record_holds(self) -> None:
        for where in ("flavor", "image"):
            for text, deciding in (
                ("nonsense", decide),
                ("[policy]\n", mock.Mock(side_effect=RuntimeError("broken"))),
            ):
                self.set_policy("[policy]\n")
                instance = self.instance()
                self.built(instance, where)
                specs, metadata = dict(instance.flavor.extra_specs), dict(instance.system_metadata)
                self.set_policy(text)
                with mock.patch.object(plugin, "decide", deciding):
                    assert self.built(instance, where) == "off"
                assert (instance.flavor.extra_specs, instance.system_metadata) == (specs, metadata)
                assert self.driver._pmuconf_failures.counts

    def test_where_nova_fails_the_record_stays(self) -> None:
        instance = self.instance()
        self.built(instance, "flavor")
        specs = dict(instance.flavor.extra_specs)
        with mock.patch.object(self.stock.__class__, "_set_clock", side_effect=ValueError), pytest.raises(ValueError):  # noqa: PT011
            self.xml(instance)
        assert instance.flavor.extra_specs == specs

    def test_the_record_is_not_in_the_domain_s_metadata(self) -> None:
        instance = self.instance()
        self.built(instance, "flavor")
        assert "hw:pmu" not in self.xml(instance)
        self.built(instance, "image")
        assert "hw_pmu" not in self.xml(instance)
