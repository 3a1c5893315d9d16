#!/usr/bin/python
"""Ansible module pmuconf.kvm.host_info"""

DOCUMENTATION = r"""
---
module: host_info
short_description: Whether a KVM host's running kernel spares VMs without PMU the PMU's cost
version_added: 0.1.0
description:
  - Reads what the running kernel's code does at a VM's exits, KVM's settings, the CPU, and what QEMUs run, as
    C(pmuconf host facts) does.
  - Reading the running kernel takes root. Without, the file with its build ID is judged, and the evidence is weaker.
options:
  host_facts:
    description:
      - Use this file on the host, which root has written with C(pmuconf host facts --output), instead of looking.
    type: path
extends_documentation_fragment:
  - pmuconf.kvm.front
  - pmuconf.kvm.front.info
notes:
  - The options C(uri), C(config_file) and C(config_dir) mean nothing here; they are taken so that
    C(module_defaults) can give them to the whole group.
seealso:
  - module: pmuconf.kvm.report_info
"""

EXAMPLES = r"""
- name: Look at the host
  pmuconf.kvm.host_info:
  become: true
  register: looked

- name: Hosts that need a kernel
  ansible.builtin.debug:
    msg: "{{ looked.host.release }}: {{ looked.host.guard.message }}; {{ looked.host.guard.remedy }}"
  when: looked.verdict == 'unguarded'
"""

RETURN = r"""
verdict:
  description: C(guarded), C(partial), C(early-out), C(no-call), C(unguarded) or C(unknown).
  returned: success
  type: str
status:
  description: C(0) if the kernel is as wanted, C(1) if it is so in part or not known, C(2) if not.
  returned: success
  type: int
delivers_fast_path:
  description:
    - Whether a VM whose PMU is off has the fast path here, the kernel and every QEMU that libvirt would start taken
      together.
    - No where that is not certain.
  returned: success
  type: bool
host:
  description: All that was found, as C(host_facts) in the report of C(pmuconf report).
  returned: success
  type: dict
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
