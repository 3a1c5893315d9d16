"""What the documentation of all modules has in common."""


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
      - The libvirt connection.
      - Without it, C([libvirt] uri) of the configuration counts, and C(qemu:///system) without that.
    type: str
  config_file:
    description:
      - Files on the host to read instead of C(/etc/pmuconf/pmuconf.conf) and C(/etc/pmuconf/pmuconf.conf.d/*.conf).
      - The policy, limits and the place of the journal are in there, as for the command C(pmuconf).
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
      - The Python on the host that has pmuconf, where the one that Ansible found there has it not.
      - The role C(pmuconf.kvm.pmuconf) installs it there.
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
    description: Tells what would be changed, with the same C(changed) as a real run, and changes nothing.
    support: full
  diff_mode:
    description: Shows the PMU state of each domain before and after, never its XML.
    support: full
  platform:
    description: What it runs on.
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
    description: Reads only, so that check mode makes no difference.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: N/A
  platform:
    description: What it runs on.
    platforms: posix
    support: full
"""
