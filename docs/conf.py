"""Sphinx: manual pages and an HTML manual, from these pages, the help of the commands and the options themselves."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

from cliff.sphinxext import AutoprogramCliffDirective
from sphinx.addnodes import pending_xref

_TREE: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_TREE))

import pmuconf  # noqa: E402 - found in this tree, whatever is installed
from pmuconf.commands.application import application  # noqa: E402
from pmuconf.commands.names import COMMANDS  # noqa: E402
from pmuconf.conf import list_opts  # noqa: E402

project = "pmuconf"
author = "The pmuconf authors"
version = release = pmuconf.__version__
extensions = ["cliff.sphinxext", "myst_parser", "oslo_config.sphinxext"]
root_doc = "contents"
language = "en"
smartquotes = False  # "--dry-run" has two signs in front
html_theme = "alabaster"
html_show_copyright = False
myst_heading_anchors = 4
myst_ref_domains = ["std"]  # oslo.config has a domain that fails when it is asked for any reference
suppress_warnings = ["misc.highlighting_failure", "myst.header"]  # Sphinx knows no lexer for some of the examples
# Without the internet, a link that leads out of the tree can't be followed: "make docs" lists those.
linkcheck_ignore = [r"https?://127\.0\.0\.1"]  # a service of this host, in an example
if not os.environ.get("PMUCONF_ONLINE"):
    linkcheck_ignore.append(r"https?://")
man_pages = [
    ("man/pmuconf.1", "pmuconf", "PMU off by default for KVM guests, and who has the fast path", "", 1),
    ("man/pmuconf.conf.5", "pmuconf.conf", "the configuration of pmuconf", "", 5),
    ("vocabulary", "pmuconf", "what a word means in pmuconf", "", 7),
    ("nova", "pmuconf-nova", "PMU off by default for every VM that Nova builds", "", 7),
]
man_show_urls = False


def _escaped(text: str | None) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text or "")


class Plain(AutoprogramCliffDirective):
    """cliff's directive with help texts as they are: not as reStructuredText, where * and ` mean something."""

    required_arguments = 0

    def _drop_ignored_options(self, parser: argparse.ArgumentParser, ignored_opts: list[str]) -> None:
        parser.format_help()  # puts our own options first
        super()._drop_ignored_options(parser, ignored_opts)
        parser.description, parser.epilog = _escaped(parser.description), _escaped(parser.epilog)
        for action in parser._actions:
            if action.help and action.help != argparse.SUPPRESS:
                action.help = _escaped(action.help % vars(action))


class Options(Plain):
    """The options of the program."""

    def _load_app(self) -> Any:
        return application()


class Commands(Plain):
    """The commands, which no entry point names."""

    def _load_app(self) -> None:
        """No command's page repeats the options of the program."""

    def _load_commands(self) -> dict[str, Any]:
        manager = application().command_manager
        return {name: manager.find_command(name.split())[0] for name in [*COMMANDS, "complete", "help"]}


def _unlink_what_is_outside(app: Any, doctree: Any) -> None:
    """Of a link to a page of the tree that is not in the manual, such as README.md, keep the text."""
    for node in list(doctree.findall(pending_xref)):
        page = f"{node['reftarget']}.md"
        in_manual = node["reftarget"] in app.env.found_docs
        if node.get("refdomain") == "doc" and not in_manual and Path(app.srcdir, page).exists():
            node.replace_self(node[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", _unlink_what_is_outside)
    for _, options in list_opts():
        for option in options:
            option.help = _escaped(option.help)
            option.sample_default = None  # the sample's example is no default
    app.add_directive("pmuconf-options", Options)
    app.add_directive("pmuconf-commands", Commands)
