"""The options of the plugin in nova.conf: the path of the policy and the effect of an error, not the policy itself."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

from pmuconf.conf.options import WORKED_RULE

__all__ = ["GROUP", "list_opts", "register"]

GROUP: Final = "pmuconf"

_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "policy_file",
        sample_default="/etc/pmuconf/pmuconf.conf",
        help="The policy file that every front end of pmuconf reads. The user of nova-compute must be able to read it. "
        "The default is /etc/pmuconf/pmuconf.conf and /etc/pmuconf/pmuconf.conf.d/*.conf; without these files, the "
        "built-in policy: off. A change of the file takes effect without a restart of nova-compute.",
    ),
    cfg.BoolOpt(
        "strict",
        default=False,
        help="The effect of an error of pmuconf, such as an unreadable policy file, on a server that is being built or "
        "started. False: Nova's own domain is used, as if pmuconf were not installed, and the error is logged once a "
        "cause. True: the operation fails.",
    ),
    cfg.StrOpt(
        "record_decision",
        default="no",
        choices=[
            ("no", "nowhere"),
            ("flavor", "as hw:pmu in the server's own copy of its flavor"),
            ("image", "as image_hw_pmu in the server's system metadata, where Nova itself records such defaults"),
        ],
        help="Where to record the PMU state that the policy decided for a server, so that a compute host without "
        "pmuconf keeps it. All programs but pmuconf take the record for an explicit choice. flavor: a resize replaces "
        "the record; with it, a rebuild with an image of hw_pmu=true is refused. image: a rebuild wipes the record, a "
        "rescue ignores it, and snapshots inherit it; with it, a resize to a flavor of hw:pmu=true is refused.",
    ),
]


# For the sample: a paragraph is one line, and an indented block stands behind "::".
_HELP: Final = f"""\
Where the policy is, and what happens after an error. Which VMs get a PMU is not said here, but in the policy file.

A worked rule of that file. perf needs the PMU, so servers of the flavors perf.* have it. No other server has one, \
unless its flavor says hw:pmu=true or its image hw_pmu=true::

{WORKED_RULE}

'pmuconf nova check' says whether nova-compute would load the plugin, and whether the policy file is valid."""


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return [(cfg.OptGroup(GROUP, help=_HELP), _OPTS)]


def register(conf: cfg.ConfigOpts) -> None:
    """Add the options to Nova's configuration."""
    conf.register_opts(_OPTS, group=GROUP)
