#!/usr/bin/python
# SPDX-FileCopyrightText: The pmuconf authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module pmuconf.kvm.journal_info"""

DOCUMENTATION = r"""
---
module: journal_info
short_description: The changes that pmuconf made on a host
version_added: 0.1.0
description:
  - Reads the journal of changes, as C(pmuconf journal) does. Also returns whether each domain is still on the host.
options:
  names:
    description:
      - The present names, or the UUIDs, of domains. The default is all changes.
      - A name that no domain has now gives the changes of the domains that had it once, with a warning.
    type: list
    elements: str
    default: []
    aliases: [name, domains]
  standing:
    description: Only the changes that could be taken back.
    type: bool
    default: false
extends_documentation_fragment:
  - pmuconf.kvm.front
  - pmuconf.kvm.front.info
seealso:
  - module: pmuconf.kvm.rollback
"""

EXAMPLES = r"""
- name: Read the changes that can be taken back
  pmuconf.kvm.journal_info:
    standing: true
  register: journal

- name: Show those of VMs that have moved away since
  ansible.builtin.debug:
    msg: "{{ journal.changes | rejectattr('here') }}"
"""

RETURN = r"""
changes:
  description: The changes, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    change:
      description: Its number in the journal of this host.
      type: int
    time:
      description: When it was begun.
      type: str
    name:
      description: The domain's name.
      type: str
    uuid:
      description: The domain's UUID.
      type: str
    old:
      description: The PMU state before.
      type: str
    new:
      description: The PMU state after.
      type: str
    rule:
      description: The rule of the policy that wanted the change.
      type: str
    kind:
      description: C(apply), C(canary) or C(rollback).
      type: str
    status:
      description: C(done), C(undone), C(abandoned), C(restored) or C(in-flight).
      type: str
    cause:
      description: A cause code; empty if there was no problem.
      type: str
    who:
      description: The user who made it.
      type: str
    uri:
      description: The libvirt driver on which the change was made, with the name of its host.
      type: str
    machine:
      description: The machine id of that host; empty if it was not known.
      type: str
    host_uuid:
      description: The UUID that libvirt gives that host; empty if it was not known.
      type: str
    here:
      description: Whether the domain is on this host now.
      type: bool
    running:
      description:
        - Whether it runs there.
        - If it does not, the VM may have migrated to another host and left its definition behind.
      type: bool
cause:
  description: The cause code of a failure.
  returned: failure
  type: str
  sample: libvirt-unreachable
hint:
  description: What to do about a failure, if that is known.
  returned: failure
  type: str
"""

from ansible_collections.pmuconf.kvm.plugins.module_utils.front import begin, settings, telling


def main():
    module = begin(
        {
            "names": {"type": "list", "elements": "str", "default": [], "aliases": ["name", "domains"]},
            "standing": {"type": "bool", "default": False},
        },
    )
    asked = module.params
    with telling(module):
        from pmuconf.access import connect
        from pmuconf.change.journal import Journal
        from pmuconf.change.whom import changes_of

        chosen = settings(module)
        entries = []
        if chosen.journal.exists():
            with Journal.open(chosen.journal) as journal:
                entries = journal.entries()
                for number, why in journal.damaged():
                    module.warn(f"change {number} of the journal can't be read, and is left out: {why}")
        if asked["standing"]:
            entries = [entry for entry in entries if entry.revocable]
        with connect(chosen, asked["uri"], read_only=True) as hypervisor:
            if asked["names"]:
                entries, sentences = changes_of(asked["names"], entries, hypervisor)
                for sentence in sentences:
                    module.warn(sentence)
            here = {listed.uuid: listed.active for listed in hypervisor.domains()}
        changes = [
            dict(entry.record(), here=entry.uuid in here, running=here.get(entry.uuid, False)) for entry in entries
        ]
        module.exit_json(changed=False, changes=changes)


if __name__ == "__main__":
    main()
