"""CloudStack's hook of the KVM agent: ``libvirt-vm-xml-transformer.sh transform XML``.

The agent runs it from /etc/cloudstack/agent/hooks when it starts a VM, never for the target of a migration. It gives it
30 seconds, and takes what it writes to standard output for the new domain. After another status than 0, the agent uses
its own domain. The hook in Groovy is older: agent.properties describes it, with the same method. Agents of 4.21 name
the script in their log ("Shell script ... is not available"). An argument has at most 128 KiB (MAX_ARG_STRLEN).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager
from pmuconf.hooks.call import Call, Facts

__all__ = ["call"]


def call(domain: str, put: Callable[[bytes], None]) -> Call:
    """The call with this argument. The other one is the method, of which there is one."""
    return Call(os.fsencode(domain), "--domain", _facts, put)


def _facts(definition: Domain) -> Facts:
    managed = definition.managed
    if managed is None or managed.manager is not Manager.CLOUDSTACK:
        managed = Managed(Manager.CLOUDSTACK, UNKNOWN, UNKNOWN, UNKNOWN)
    return Facts(managed)
