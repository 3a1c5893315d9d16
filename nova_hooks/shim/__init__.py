"""Where Nova looks for ``compute_driver = pmuconf.LibvirtDriver``; the driver itself is in pmuconf_nova."""

from pmuconf_nova.driver import LibvirtDriver

__all__ = ["LibvirtDriver"]
