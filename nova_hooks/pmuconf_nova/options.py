"""The options of the plugin in nova.conf: where the policy is and what an error does, never what the policy says."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

__all__ = ["GROUP", "list_opts", "register"]

GROUP: Final = "pmuconf"

_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "policy_file",
        help="The policy file that every front end of pmuconf reads; it must be readable by the user of nova-compute. "
        "Unset: /etc/pmuconf/pmuconf.conf and /etc/pmuconf/pmuconf.conf.d/*.conf, and without any the built-in policy: "
        "off. It is read anew when it changes; nova-compute need not be restarted.",
    ),
    cfg.BoolOpt(
        "strict",
        default=False,
        help="What an error of pmuconf, such as a policy file that can't be read, does to a server that is being built "
        "or started. False: Nova's own domain is used, as if pmuconf were not there, and the error is logged once a "
        "cause. True: the operation fails.",
    ),
    cfg.StrOpt(
        "record_decision",
        default="no",
        choices=[
            ("no", "do not"),
            ("flavor", "as hw:pmu in the server's own copy of its flavor"),
            ("image", "as image_hw_pmu in its system metadata, where Nova itself records such defaults"),
        ],
        help="Whether to record the PMU state that the policy decided in the server, so that a compute host without "
        "pmuconf keeps it. Anybody but pmuconf takes a record for an explicit choice. A resize replaces the one in the "
        "flavor; with it, a rebuild with an image of hw_pmu=true is refused. The one of the image is wiped by a "
        "rebuild, ignored by a rescue and inherited by snapshots; with it, a resize to a flavor of hw:pmu=true is "
        "refused.",
    ),
]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return [(GROUP, _OPTS)]


def register(conf: cfg.ConfigOpts) -> None:
    """Have Nova's configuration know them."""
    conf.register_opts(_OPTS, group=GROUP)
