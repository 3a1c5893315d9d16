"""Nova's libvirt driver, which writes the PMU state of the policy into every domain that it generates.

Nova generates a domain from flavor and image when it builds, starts, hard reboots, cold moves or rescues a server. It
calls ``_set_features()`` for the domain's features: the same method with the same arguments in Nova 26 to 34. A live
migration, a resume or a soft reboot generates no domain, so the guest keeps its PMU state.

After an error here, Nova's own domain is used, unless ``[pmuconf] strict`` is set.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import nova.conf
from nova import exception
from nova.i18n import _
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import driver as libvirt_driver
from oslo_log import log as logging

from pmuconf.domain.definition import UNKNOWN, Manager, PmuState
from pmuconf.policy import FLAVOR_CHOICE, IMAGE_CHOICE, Policy, Ruling, Subject, decide
from pmuconf_nova import options, record, trait
from pmuconf_nova.failures import PluginFailures, cause_of
from pmuconf_nova.source import PolicySource

__all__ = ["LibvirtDriver", "PmuPolicyFailed", "subject_of"]

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
options.register(CONF)


class PmuPolicyFailed(exception.NovaException):  # type: ignore[misc]
    """The policy could not be applied, and ``[pmuconf] strict`` is set."""

    msg_fmt = _("pmuconf could not apply the PMU policy, and [pmuconf] strict is set: %(reason)s (%(cause)s)")


@dataclass
class _Build:
    """The instance whose domain is being generated.

    :param policy: None if it can't be read; then the domain stays as Nova generates it.
    :param lifted: the record that was in the instance.
    :param ruling: None before the decision, or if that failed.
    """

    instance: Any
    policy: Policy | None = None
    lifted: record.Lifted = field(default_factory=record.Lifted)
    ruling: Ruling | None = None


# Each greenlet or thread has its own, because nova-compute builds several servers at a time.
_building: ContextVar[_Build | None] = ContextVar("pmuconf_building", default=None)


class LibvirtDriver(libvirt_driver.LibvirtDriver):  # type: ignore[misc]
    """Nova's libvirt driver, with the PMU off by default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pmuconf_source = PolicySource(lambda: CONF.pmuconf.policy_file)
        self._pmuconf_failures = PluginFailures("the PMU policy", "Nova's own domain is used")
        self._pmuconf_trait_failures = PluginFailures("the trait", "it is taken away")

    def init_host(self, host: str) -> None:
        """Read the policy once at the start, so that an error shows before the first server is built."""
        super().init_host(host)
        try:
            policy = self._pmuconf_source.settings().policy
        except Exception as error:
            self._pmuconf_failed(error)
            return
        LOG.info(
            "pmuconf: PMU %(default)s by default, %(rules)d rules, strict=%(strict)s, record_decision=%(record)s",
            {
                "default": policy.default.value,
                "rules": len(policy.rules),
                "strict": CONF.pmuconf.strict,
                "record": CONF.pmuconf.record_decision,
            },
        )

    def _get_guest_config(
        self, instance: Any, network_info: Any, image_meta: Any, disk_info: Any, *args: Any, **kwargs: Any
    ) -> Any:
        rescue = args[0] if args else kwargs.get("rescue")
        build = _Build(instance)
        try:
            # The policy first: if it can't be read, the record stays in, and Nova takes it for an explicit choice.
            policy = self._pmuconf_source.settings().policy
            build.lifted = record.lift(instance)
            image_meta = record.without_record(build.lifted, image_meta)
            build.policy = policy
        except Exception as error:
            build.lifted.put_back(instance)
            self._pmuconf_failed(error, instance)
        token = _building.set(build)
        try:
            guest = super()._get_guest_config(instance, network_info, image_meta, disk_info, *args, **kwargs)
        except BaseException:
            build.lifted.put_back(instance)
            raise
        finally:
            _building.reset(token)
        try:
            self._pmuconf_record(build, rescue=bool(rescue))
        except Exception as error:
            self._pmuconf_failed(error, instance)
        return guest

    def _set_features(self, guest: Any, os_type: str, image_meta: Any, flavor: Any) -> None:
        super()._set_features(guest, os_type, image_meta, flavor)
        build = _building.get() or self._pmuconf_unknown()
        if build.policy is None:
            return
        number = len(guest.features)
        try:
            arch = guest.os_arch or self._check_emulation_arch(image_meta)
            ruling = decide(build.policy, subject_of(build.policy, guest, build.instance, image_meta, flavor, arch))
            state = ruling.decision.state
            if state is not None and not _explicit(ruling):  # which Nova itself has written
                guest.add_feature(_feature(state))
            LOG.debug(
                "pmuconf: PMU %(decision)s by %(rule)s: %(reason)s",
                {"decision": ruling.decision.value, "rule": ruling.rule, "reason": ruling.reason},
                instance=build.instance,
            )
            build.ruling = ruling
            self._pmuconf_failures.works()
        except Exception as error:
            del guest.features[number:]
            recorded = build.lifted.state
            if recorded is not None:
                guest.add_feature(_feature(recorded))
            self._pmuconf_failed(error, build.instance)

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:
        """Nova's own inventory, and the trait of a host that delivers the fast path. Nova calls this periodically."""
        super().update_provider_tree(provider_tree, nodename, allocations=allocations)
        failed: Exception | None = None
        try:
            try:
                delivers = CONF.libvirt.virt_type == "kvm" and trait.delivers()
            except Exception as error:  # an unknown answer must not become a yes
                delivers, failed = False, error
            change = provider_tree.add_traits if delivers else provider_tree.remove_traits
            change(nodename, trait.TRAIT)
        except Exception as error:  # the host's inventory must not suffer, strict or not
            failed = failed or error
        if failed is None:
            self._pmuconf_trait_failures.works()
        else:
            self._pmuconf_trait_failures.note(failed)

    def _pmuconf_unknown(self) -> _Build:
        """The build for a caller that asks for features outside _get_guest_config()."""
        build = _Build(None)
        try:
            build.policy = self._pmuconf_source.settings().policy
        except Exception as error:
            self._pmuconf_failed(error)
        return build

    def _pmuconf_record(self, build: _Build, *, rescue: bool) -> None:
        """Record the decision. In a rescue (another image) and after an error, the earlier record stays."""
        if rescue or build.ruling is None:
            build.lifted.put_back(build.instance)
            return
        where, state = CONF.pmuconf.record_decision, build.ruling.decision.state
        if where != "no" and state is not None and not _explicit(build.ruling):
            record.write(build.instance, where, state)

    def _pmuconf_failed(self, error: Exception, instance: Any = None) -> None:
        """Count and log an error of pmuconf, so that the caller can go on without pmuconf.

        :raises PmuPolicyFailed: strict is set, and the operation has to fail.
        """
        self._pmuconf_failures.note(error)
        if CONF.pmuconf.strict:
            raise PmuPolicyFailed(reason=str(error), cause=cause_of(error)) from error
        LOG.debug("pmuconf: left as Nova has it", instance=instance)


def subject_of(policy: Policy, guest: Any, instance: Any, image_meta: Any, flavor: Any, arch: str) -> Subject:
    """The facts that the policy reads, of a domain that Nova is about to generate.

    The type is the guest's own: qemu where Nova emulates. The image's properties are texts, as Nova 32 and later writes
    them into the domain's metadata. So an audit of that domain decides by the same facts.

    :param instance: None if it is not known; a rule about projects then leaves the domain undecided.
    """
    properties = image_meta.properties
    return Subject(
        virt_type=guest.virt_type or CONF.libvirt.virt_type,
        arch=arch,
        flavor=flavor.name,
        flavor_id=flavor.flavorid,
        extra_specs=dict(flavor.extra_specs),
        # Only the properties that a rule reads. An image may have almost two hundred: reading all would slow a build.
        image_properties={
            name: str(getattr(properties, name))
            for name in policy.image_properties
            if name in properties.fields and properties.obj_attr_is_set(name)
        },
        project=UNKNOWN if instance is None else instance.project_id,
        attributes=None,
        name=guest.name or UNKNOWN,
        uuid=guest.uuid or UNKNOWN,
        manager=Manager.NOVA,
    )


def _feature(state: PmuState) -> Any:
    return vconfig.LibvirtConfigGuestFeaturePMU(state is PmuState.ON)


def _explicit(ruling: Ruling) -> bool:
    return ruling.rule in (FLAVOR_CHOICE, IMAGE_CHOICE)
