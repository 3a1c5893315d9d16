#!/usr/bin/python
"""Ansible module pmuconf.kvm.rollback"""

DOCUMENTATION = r"""
---
module: rollback
short_description: Put back the PMU state that libvirt domains had before pmuconf changed it
version_added: 0.1.0
description:
  - Takes changes back with the code of C(pmuconf rollback), where the PMU state still is what pmuconf left.
    Whatever else was changed in a domain since stays.
  - What was taken back already is left as it is.
  - The next C(pmuconf.kvm.domain) would make the change again. Add a rule for the domain first if it is to stay as
    it was.
options:
  names:
    description:
      - Names of today, or UUIDs, of domains, all of whose changes are taken back.
      - With C(changes), only those changes whose domain is called so on this host today, or has one of these UUIDs.
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
      - Changes as C(pmuconf.kvm.journal_info) returns them, on this host or on others. Those whose domain is on
        this host are taken back; the others are passed over.
      - So that a change can be taken back where the VM is now, though it has migrated since.
      - A change is taken back only if the domain still has the PMU state that the change left.
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
- name: One domain as it was
  pmuconf.kvm.rollback:
    name: web1

- name: The whole host
  pmuconf.kvm.rollback:
    all: true

- name: Read what was changed, on all hosts
  pmuconf.kvm.journal_info:
    standing: true
  register: journal

- name: Take it back where the VMs are now
  pmuconf.kvm.rollback:
    changes: "{{ ansible_play_hosts | map('extract', hostvars, ['journal', 'changes']) | flatten(1) }}"
"""

RETURN = r"""
results:
  description:
    - What became of each domain whose changes were to be taken back.
  returned: always, unless nothing could be begun
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
      description: The rule of the policy that wants it; C(requested) if the task does, C(rollback) for a roll back.
      type: str
    outcome:
      description:
        - C(changed), C(planned) in check mode, C(already), C(transient), C(vanished), C(busy), C(not-reached),
          C(not-judged) or C(failed), as the command C(pmuconf) has them.
      type: str
    pending:
      description: Whether the guest runs on with the old PMU state until it is stopped and started.
      type: bool
    cause:
      description: A stable code for what is the matter; empty if nothing is.
      type: str
      sample: not-reached
    note:
      description: The same in a sentence.
      type: str
    remedy:
      description: What brings it further, in the words of what manages the domain; empty if nothing is left to do.
      type: str
    change:
      description: The number of the change in the host's journal, which C(pmuconf.kvm.rollback) takes.
      type: int
pending:
  description: The names of the changed domains whose guests run on with the old PMU state.
  returned: always, unless nothing could be begun
  type: list
  elements: str
status:
  description:
    - The exit status that the command would have given after a real run without failures.
    - C(0) if all is as wanted, C(1) if something waits for a restart or was left alone, C(2) if a domain keeps the
      change for now, or if one came back that somebody had undefined (its C(cause) is C(defined-anew)).
  returned: always, unless nothing could be begun
  type: int
cause:
  description: The cause code of a failure.
  returned: failure
  type: str
  sample: libvirt-unreachable
hint:
  description: What to do about a failure, where there is something.
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
