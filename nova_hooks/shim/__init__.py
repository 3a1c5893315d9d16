"""The place where Nova looks for ``compute_driver = pmuconf.LibvirtDriver``. The driver is in pmuconf_nova."""

from pmuconf_nova.driver import LibvirtDriver

__all__ = ["LibvirtDriver"]
