#!/usr/bin/python
"""Ansible module pmuconf.kvm.domain"""

DOCUMENTATION = r"""
---
module: domain
short_description: Bring the PMU of libvirt domains on policy
version_added: 0.1.0
description:
  - Writes the PMU state of the next boot of one domain, several, or all of a host, with the code of C(pmuconf apply).
  - A running guest is never touched. It gets its new PMU state when it is stopped and started.
  - Each change is journalled before it is made and verified after; C(pmuconf.kvm.rollback) takes it back.
options:
  names:
    description:
      - Names or UUIDs of the domains. Without any, all domains of the host.
    type: list
    elements: str
    default: []
    aliases: [name, domains]
  state:
    description:
      - C(policy) is what the policy of the configuration wants for each domain.
      - C(off) and C(on) ask for that state instead of what the rules want, and take C(names). An explicit C(hw:pmu)
        or C(hw_pmu), and whatever else beats every rule, beats them too. The task fails then and changes nothing.
      - The next run with C(policy) undoes them unless the policy agrees.
    type: str
    choices: ["policy", "off", "on"]
    default: policy
  max_changes:
    description:
      - Stop after so many changes; C(0) for no limit. The default is C([change] max_changes) of the configuration,
        100 if that says nothing.
      - What was not reached is in the results, and C(status) is 2.
    type: int
  max_failures:
    description:
      - Stop when more domains than this have failed, or differ in more than their PMU afterwards, nobody knows why.
        The default is C([change] max_failures) of the configuration, 3 if that says nothing.
      - A domain that fails stops no other up to there. The task fails in the end.
    type: int
  canary:
    description:
      - Change so many domains and stop; with C(continue), go on with the others once these are verified.
    type: int
    default: 0
  continue:
    description:
      - Go on after the canary. Without C(canary), after that of an earlier run, if its domains still have what it
        left.
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

- name: And then the others, as many as there are
  pmuconf.kvm.domain:
    continue: true
    max_changes: 0
  register: brought
  failed_when: brought is failed or brought.status > 1

- name: Say what is left to do
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.remedy }}"
  loop: "{{ brought.results | selectattr('remedy') }}"
  loop_control:
    label: "{{ item.name }}"

- name: Two domains off, whatever the rules say
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

    - name: And see how fast they are
      pmuconf.kvm.report_info:
"""

RETURN = r"""
results:
  description:
    - What became of each domain that was to be changed, and why others that are off policy were left alone.
    - A domain that is as wanted is not listed.
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
        - C(changed), C(planned) in check mode, C(already), C(transient), C(observed), C(overridden), C(undecided),
          C(vanished), C(busy), C(not-reached), C(not-judged) or C(failed), as the command C(pmuconf) has them.
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
    - C(0) if all is as wanted, C(1) if something waits for a restart or was left alone, C(2) if a domain stays off
      policy, or if one came back that somebody had undefined (its C(cause) is C(defined-anew)).
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
            msg=f"state {asked['state']} takes names: it is asked of domains, not of a host", cause="usage"
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
