#!/usr/bin/python
# SPDX-FileCopyrightText: The pmuconf authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module pmuconf.kvm.domain"""

DOCUMENTATION = r"""
---
module: domain
short_description: Bring the PMU state of libvirt domains on policy
version_added: 0.1.0
description:
  - Writes the PMU state of the next boot of one domain, several, or all of a host, with the code of C(pmuconf apply).
  - A running guest is never touched. It gets its new PMU state when it is stopped and started.
  - Each change is journalled before it is made, and verified after it. C(pmuconf.kvm.rollback) takes it back.
options:
  names:
    description:
      - Names or UUIDs of the domains. The default is all domains of the host.
    type: list
    elements: str
    default: []
    aliases: [name, domains]
  state:
    description:
      - C(policy) is the state that the policy of the configuration wants for each domain.
      - C(off) and C(on) ask for that state instead, and require C(names). An explicit C(hw:pmu) or C(hw_pmu), and
        everything else that beats every rule, beats them too. The task fails then and changes nothing.
      - The next run with C(policy) undoes C(off) or C(on) unless the policy agrees with it.
    type: str
    choices: ["policy", "off", "on"]
    default: policy
  max_changes:
    description:
      - Stop after this number of changes; C(0) for no limit. The default is C([change] max_changes) of the
        configuration, or 100.
      - Domains that were not reached are in the results, and C(status) is 2.
    type: int
  max_failures:
    description:
      - Stop when more domains than this have failed, or differ in more than their PMU after the change for an unknown
        reason. The default is C([change] max_failures) of the configuration, or 3.
      - Up to this number, the other domains are still changed. The task fails at its end.
    type: int
  canary:
    description:
      - Change this number of domains and stop. With C(continue), go on with the others when these are verified.
    type: int
    default: 0
  continue:
    description:
      - Go on after the canary. Without C(canary), go on after the canary of an earlier run, if its domains still have
        the state that it wrote.
    type: bool
    default: false
extends_documentation_fragment:
  - pmuconf.kvm.front
  - pmuconf.kvm.front.attributes
seealso:
  - module: pmuconf.kvm.rollback
  - module: pmuconf.kvm.report_info
"""

EXAMPLES = r"""
- name: Bring all domains of the host on policy
  pmuconf.kvm.domain:

- name: Change one first
  pmuconf.kvm.domain:
    canary: 1

- name: Change all the others
  pmuconf.kvm.domain:
    continue: true
    max_changes: 0
  register: brought
  failed_when: brought is failed or brought.status > 1

- name: Show what is left to do
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.remedy }}"
  loop: "{{ brought.results | selectattr('remedy') }}"
  loop_control:
    label: "{{ item.name }}"

- name: Switch the PMU of two domains off, against the rules
  pmuconf.kvm.domain:
    names: [web1, web2]
    state: "off"

- name: A host with a configuration of its own
  module_defaults:
    group/pmuconf.kvm.pmuconf:
      uri: qemu+unix:///system?socket=/run/libvirt/virtqemud-sock
      config_file: [/etc/pmuconf/other.conf]
  block:
    - name: Bring its domains on policy
      pmuconf.kvm.domain:

    - name: Report which of them have the fast path
      pmuconf.kvm.report_info:
"""

RETURN = r"""
results:
  description:
    - The result for each domain that was to be changed, and for each other one that is off policy.
    - Domains that are as wanted are not listed.
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
        - C(changed), C(planned) in check mode, C(already), C(transient), C(observed), C(overridden), C(undecided),
          C(vanished), C(busy), C(not-reached), C(not-judged) or C(failed), as the command C(pmuconf) has them.
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
      stays off policy, or if a domain came back that somebody had undefined (its C(cause) is C(defined-anew)).
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
        dict(
            names={"type": "list", "elements": "str", "default": [], "aliases": ["name", "domains"]},
            state={"type": "str", "choices": ["policy", "off", "on"], "default": "policy"},
            max_changes={"type": "int"},
            max_failures={"type": "int"},
            canary={"type": "int", "default": 0},
            **{"continue": {"type": "bool", "default": False}},
        ),
    )
    asked = module.params
    if asked["state"] != "policy" and not asked["names"]:
        module.fail_json(
            msg=f"state {asked['state']} requires names: it is for single domains, not for a host", cause="usage"
        )
    for option in ("max_changes", "max_failures", "canary"):
        if (asked[option] or 0) < 0:
            module.fail_json(msg=f"{option}: {asked[option]} is less than 0", cause="usage")
    with telling(module):
        from pmuconf.domain.definition import PmuState

        results = run(module).apply(
            asked["names"],
            state=None if asked["state"] == "policy" else PmuState(asked["state"]),
            max_changes=asked["max_changes"],
            max_failures=asked["max_failures"],
            canary=asked["canary"],
            go_on=asked["continue"],
        )
        finish(module, results)


if __name__ == "__main__":
    main()
