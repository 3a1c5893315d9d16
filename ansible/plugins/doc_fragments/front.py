"""The parts of the documentation that all modules share."""


class ModuleDocFragment:
    """Options and attributes of every module."""

    DOCUMENTATION = r"""
author:
  - The pmuconf project (@pmuconf)
requirements:
  - pmuconf[host] on the host, whose Python is 3.9 or later
options:
  uri:
    description:
      - The libvirt connection. The default is C([libvirt] uri) of the configuration, or C(qemu:///system).
    type: str
  config_file:
    description:
      - Files on the host to read instead of C(/etc/pmuconf/pmuconf.conf) and C(/etc/pmuconf/pmuconf.conf.d/*.conf).
      - They have the policy, the limits and the path of the journal, as for the command C(pmuconf).
    type: list
    elements: path
    default: []
  config_dir:
    description:
      - Folders on the host whose C(*.conf) are read too, after the files.
    type: list
    elements: path
    default: []
  python:
    description:
      - The Python on the host that has pmuconf. It is used if the Python that Ansible uses there lacks pmuconf.
      - The role C(pmuconf.kvm.pmuconf) installs pmuconf there.
    type: path
    default: /opt/pmuconf/bin/python
"""

    ATTRIBUTES = r"""
attributes:
  action_group:
    description: The group for C(module_defaults) that the module belongs to.
    support: full
    membership: [pmuconf.kvm.pmuconf]
  check_mode:
    description: Returns what would be changed, with the same C(changed) as a real run, and changes nothing.
    support: full
  diff_mode:
    description: Shows the PMU state of each domain before and after, never its XML.
    support: full
  platform:
    description: The systems on which the module runs.
    platforms: posix
    support: full
"""

    INFO = r"""
attributes:
  action_group:
    description: The group for C(module_defaults) that the module belongs to.
    support: full
    membership: [pmuconf.kvm.pmuconf]
  check_mode:
    description: The module only reads, so check mode makes no difference.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: N/A
  platform:
    description: The systems on which the module runs.
    platforms: posix
    support: full
"""
