"""The sample configurations, made by oslo.config's generator: ``python -m tests.samples pmuconf|pmuconf.nova FILE``.

The generator sorts groups by their names, and begins with an empty [DEFAULT]. Here they stand in the order in which the
options declare them, below a few lines that say what the file is for.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any, Final

from oslo_config import cfg, generator

__all__ = ["sample"]

_HEADS: Final = {
    "pmuconf": """\
# The configuration of pmuconf: which VMs get a PMU, and how the commands and the service work.
# Every option is here as a comment, with its default, or with an example if it has none. Without
# this file, the defaults count: PMU off for all VMs, and a service that only observes. After a
# change, run 'pmuconf policy check', and 'systemctl reload pmuconf' if the service runs.
""",
    "pmuconf.nova": """\
# The lines that pmuconf's plugin needs in nova.conf, on each compute host. Write them into the file
# that nova-compute reads last, run 'pmuconf nova check', and restart nova-compute.


[DEFAULT]

# Nova's libvirt driver, loaded through pmuconf. Without this line the plugin does nothing. (string
# value)
#compute_driver = pmuconf.LibvirtDriver
""",
}
# What the generator says of each option that has an example in place of a default.
_NOTE: Final = re.compile(
    "#\n# This option has a sample default set, which means that\n# its actual default value may vary from the one "
    "documented\n# (above|below).\n"
)


def sample(namespace: str) -> str:
    """The sample of all options of this namespace."""
    asked: Any = cfg.ConfigOpts()
    generator.register_cli_opts(asked)
    asked(["--namespace", namespace, "--wrap-width", "100"], default_config_files=[])
    made = io.StringIO()
    generator.generate(asked, made)
    default, *groups = re.split(r"\n\n\n(?=\[)", _NOTE.sub("", made.getvalue()).replace("::\n", ":\n"))
    assert default.strip() == "[DEFAULT]", default
    order = [group.name for _, listed in generator._list_opts([namespace]) for group, _ in listed]
    groups.sort(key=lambda text: order.index(text[1 : text.index("]")]))
    origin = f"\n#\n# From {namespace}\n#\n"
    return "\n\n".join([_HEADS[namespace], *(text.replace(origin, "").rstrip() + "\n" for text in groups)])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(sample(sys.argv[1]), encoding="utf-8")
