#!/usr/bin/python
# SPDX-FileCopyrightText: The pmuconf authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module pmuconf.kvm.rollback"""

DOCUMENTATION = r"""
---
module: rollback
short_description: Put back the PMU state that libvirt domains had before pmuconf changed it
version_added: 0.1.0
description:
  - Takes changes back with the code of C(pmuconf rollback), if the domain still has the PMU state that pmuconf wrote.
    Everything else that was changed in a domain since then stays.
  - Changes that were taken back already are left as they are.
  - The next run of C(pmuconf.kvm.domain) would make the change again. If the domain is to stay as it was, add a rule
    for it first.
options:
  names:
    description:
      - The present names, or the UUIDs, of domains. All changes of these domains are taken back.
      - With C(changes), only the changes of domains that have one of these names on this host now, or of these UUIDs.
    type: list
    elements: str
    aliases: [name, domains]
  change:
    description: The number of one change in the host's journal.
    type: int
  all:
    description: Every change of the host.
    type: bool
  changes:
    description:
      - Changes as C(pmuconf.kvm.journal_info) returns them, on this host or on others. If the domain of a change is on
        this host, the change is taken back; otherwise it is ignored.
      - So a change can be taken back on the host where the VM is now, even if it has migrated since.
      - A change is taken back only if the domain still has the PMU state that the change wrote.
    type: list
    elements: dict
extends_documentation_fragment:
  - pmuconf.kvm.front
  - pmuconf.kvm.front.attributes
seealso:
  - module: pmuconf.kvm.domain
  - module: pmuconf.kvm.journal_info
"""

EXAMPLES = r"""
- name: Take back the changes of one domain
  pmuconf.kvm.rollback:
    name: web1

- name: Take back all changes of the host
  pmuconf.kvm.rollback:
    all: true

- name: Read the changes of all hosts
  pmuconf.kvm.journal_info:
    standing: true
  register: journal

- name: Take them back on the hosts where the VMs are now
  pmuconf.kvm.rollback:
    changes: "{{ ansible_play_hosts | map('extract', hostvars, ['journal', 'changes']) | flatten(1) }}"
"""

RETURN = r"""
results:
  description:
    - The result for each domain whose changes were to be taken back.
  returned: unless the task failed before its first change
  type: list
  elements: dict
  contains:
    name:
      description: The domain's name.
      type: str
      sample: web1
    uuid:
      description: The domain's UUID.
      type: str
    old:
      description: The PMU state that its next boot had, C(on), C(off) or C(default).
      type: str
    new:
      description: The PMU state that its next boot has now, or would have.
      type: str
    rule:
      description: The rule of the policy that wants this state; C(requested) for a task, C(rollback) for a roll back.
      type: str
    outcome:
      description:
        - C(changed), C(planned) in check mode, C(already), C(transient), C(vanished), C(busy), C(not-reached),
          C(not-judged) or C(failed), as the command C(pmuconf) has them.
      type: str
    pending:
      description: Whether the guest keeps its old PMU state until it is stopped and started.
      type: bool
    cause:
      description: A stable code for a problem; empty if there is none.
      type: str
      sample: not-reached
    note:
      description: The problem in a sentence.
      type: str
    remedy:
      description: What to do next, in the words of the manager of the domain; empty if nothing is left to do.
      type: str
    change:
      description: The number of the change in the host's journal, which C(pmuconf.kvm.rollback) takes.
      type: int
pending:
  description: The names of the changed domains whose guests keep their old PMU state until a stop and start.
  returned: unless the task failed before its first change
  type: list
  elements: str
status:
  description:
    - The exit status of the command after a real run without failures.
    - C(0) if all is as wanted. C(1) if a guest waits for a restart, or a domain was left as it is. C(2) if a domain
      keeps the change for now, or if a domain came back that somebody had undefined (its C(cause) is
      C(defined-anew)).
  returned: unless the task failed before its first change
  type: int
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

from ansible_collections.pmuconf.kvm.plugins.module_utils.front import begin, finish, run, telling


def main():
    module = begin(
        {
            "names": {"type": "list", "elements": "str", "aliases": ["name", "domains"]},
            "change": {"type": "int"},
            "all": {"type": "bool"},
            "changes": {"type": "list", "elements": "dict"},
        },
        mutually_exclusive=[("names", "change", "all"), ("changes", "change", "all")],
        required_one_of=[("names", "change", "all", "changes")],
    )
    asked = module.params
    with telling(module):
        if asked["changes"] is not None:
            results = run(module).roll_back_carried(asked["changes"], asked["names"])
        else:
            results = run(module).roll_back(None if asked["all"] else asked["names"] or [], change=asked["change"])
        finish(module, results)


if __name__ == "__main__":
    main()
