"""The configuration: its options, its files, and the settings that they give."""

from pmuconf.conf.options import list_opts
from pmuconf.conf.settings import DEFAULT_DIR, DEFAULT_FILE, Mode, Processes, ServiceSettings, Settings, load

__all__ = ["DEFAULT_DIR", "DEFAULT_FILE", "Mode", "Processes", "ServiceSettings", "Settings", "list_opts", "load"]
