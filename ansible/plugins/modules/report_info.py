#!/usr/bin/python
# SPDX-FileCopyrightText: The pmuconf authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module pmuconf.kvm.report_info"""

DOCUMENTATION = r"""
---
module: report_info
short_description: The PMU report of a KVM host
version_added: 0.1.0
description:
  - Each VM's PMU state, the state that the policy wants, whether the VM has the fast path, and what to do if not. This
    is the document of C(pmuconf report -f json).
  - C(pmuconf fleet report) joins the documents of many hosts. The playbook C(pmuconf.kvm.gather) collects them.
options:
  names:
    description: Names or UUIDs of domains. The default is all domains of the host.
    type: list
    elements: str
    default: []
    aliases: [name, domains]
  host_facts:
    description:
      - Use this file on the host instead of looking at the kernel. Root wrote it with C(pmuconf host facts --output).
    type: path
  sample:
    description: Count the VMs' exits for this number of seconds, to report what the fast path saves; C(0) does not.
    type: float
    default: 0
extends_documentation_fragment:
  - pmuconf.kvm.front
  - pmuconf.kvm.front.info
seealso:
  - module: pmuconf.kvm.host_info
"""

EXAMPLES = r"""
- name: Look at the host and its VMs
  pmuconf.kvm.report_info:
  become: true
  register: survey

- name: Show the VMs that have to be stopped and started
  ansible.builtin.debug:
    msg: "{{ survey.report.domains | selectattr('uuid', 'in', survey.power_cycle) | map(attribute='name') }}"
"""

RETURN = r"""
report:
  description: The document, as in C(docs/report.schema.json) of pmuconf.
  returned: success
  type: dict
power_cycle:
  description:
    - UUIDs of the running VMs that a power cycle helps now, with nothing to be done before it. It is the answer of
      C(pmuconf fleet plan).
  returned: success
  type: list
  elements: str
status:
  description:
    - C(0) if all is as wanted, C(1) if something waits, is undecided or unknown. C(2) for drift, the slow path, or a
      domain that can't be judged.
  returned: success
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

from pathlib import Path

from ansible_collections.pmuconf.kvm.plugins.module_utils.front import begin, settings, telling


def main():
    module = begin(
        {
            "names": {"type": "list", "elements": "str", "default": [], "aliases": ["name", "domains"]},
            "host_facts": {"type": "path"},
            "sample": {"type": "float", "default": 0},
        },
    )
    asked = module.params
    if not 0 <= asked["sample"] <= 3600:
        module.fail_json(msg=f"sample: {asked['sample']} is no time between 0 and 3600 seconds", cause="usage")
    with telling(module):
        from pmuconf.access import connect, surveyor
        from pmuconf.audit.look import Pace, audit
        from pmuconf.fleet.hostreport import of_document
        from pmuconf.fleet.steps import power_cycles
        from pmuconf.report.document import document

        chosen = settings(module)
        file = asked["host_facts"]
        with connect(chosen, asked["uri"], read_only=True) as hypervisor:
            report = audit(
                hypervisor,
                chosen.policy,
                asked["names"],
                max_bytes=chosen.max_xml_bytes,
                survey=surveyor(None if file is None else Path(file)),
                always=True,
                pace=Pace(asked["sample"]),
            )
        record = document(report, chosen.policy)
        waiting = power_cycles(of_document(record))
        module.exit_json(changed=False, report=record, power_cycle=waiting, status=int(report.severity))


if __name__ == "__main__":
    main()
