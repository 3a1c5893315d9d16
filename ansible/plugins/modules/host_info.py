#!/usr/bin/python
# SPDX-FileCopyrightText: The pmuconf authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module pmuconf.kvm.host_info"""

DOCUMENTATION = r"""
---
module: host_info
short_description: Whether the running kernel of a KVM host gives VMs without a PMU the fast path
version_added: 0.1.0
description:
  - Reads what the running kernel's code does at a VM's exits, KVM's settings, the CPU, and the QEMUs that run, as
    C(pmuconf host facts) does.
  - Reading the running kernel requires root. Without root, the file with the same build ID is judged instead, which is
    weaker evidence.
options:
  host_facts:
    description:
      - Use this file on the host instead of looking. Root wrote it with C(pmuconf host facts --output).
    type: path
extends_documentation_fragment:
  - pmuconf.kvm.front
  - pmuconf.kvm.front.info
notes:
  - The options C(uri), C(config_file) and C(config_dir) have no effect here. They are accepted so that
    C(module_defaults) can set them for the whole group.
seealso:
  - module: pmuconf.kvm.report_info
"""

EXAMPLES = r"""
- name: Look at the host
  pmuconf.kvm.host_info:
  become: true
  register: survey

- name: Hosts that need a kernel
  ansible.builtin.debug:
    msg: "{{ survey.host.release }}: {{ survey.host.guard.message }}; {{ survey.host.guard.remedy }}"
  when: survey.verdict == 'unguarded'
"""

RETURN = r"""
verdict:
  description: C(guarded), C(partial), C(early-out), C(no-call), C(unguarded) or C(unknown).
  returned: success
  type: str
status:
  description: C(0) if the kernel is as wanted, C(1) if it is as wanted in part or unknown, C(2) if it is not.
  returned: success
  type: int
delivers_fast_path:
  description:
    - Whether a VM whose PMU is off has the fast path here, with this kernel and with every QEMU that libvirt would
      start.
    - No, if that is not certain.
  returned: success
  type: bool
host:
  description: All facts about the host, as C(host_facts) in the report of C(pmuconf report).
  returned: success
  type: dict
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

from ansible_collections.pmuconf.kvm.plugins.module_utils.front import begin, telling


def main():
    module = begin({"host_facts": {"type": "path"}})
    file = module.params["host_facts"]
    with telling(module):
        from pmuconf.access import surveyor
        from pmuconf.fastpath.verdict import delivers
        from pmuconf.report.document import host_record

        facts = surveyor(None if file is None else Path(file))()
        module.exit_json(
            changed=False,
            verdict=facts.guard.verdict.value,
            status=facts.guard.verdict.severity,
            delivers_fast_path=delivers(facts),
            host=host_record(facts),
        )


if __name__ == "__main__":
    main()
