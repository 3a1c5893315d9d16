"""Pages that need nothing but a browser: no network, no other file, and no script to be read.

Names and metadata are tenants' text. Three things keep it text: every expression of a template goes through
visible() and is escaped, whatever it is; the page's policy (CSP) lets only its own script and style run, by their
hashes; and the script puts nothing into the page that it did not find there as text.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from pmuconf.report.plain import visible

__all__ = ["content_policy", "render"]

_EARLY: Final = (
    "document.documentElement.className = 'scripted';"  # so that thousands of rows are not laid out for nothing
)


def render(name: str, view: dict[str, Any]) -> str:
    """The page of this template: ASCII alone, so that it reads the same however it is stored or sent."""
    style, script = _asset("page.css"), _asset("page.js")
    text = _template(name).render(
        **view,
        style=Markup(style),
        script=Markup(script),
        early=Markup(_EARLY),
        policy_of_content=content_policy(),
    )
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


@cache
def content_policy() -> str:
    """What a page may load and run (CSP): its own style and script, known by their hashes, and nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(_asset('page.css'))}'",
            f"script-src '{_hash(_EARLY)}' '{_hash(_asset('page.js'))}'",
            "img-src data:",  # the icon; without one, a browser asks the server for it
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


@cache
def _asset(name: str) -> str:
    return (resources.files("pmuconf.report") / "page" / name).read_text(encoding="ascii")


@cache
def _template(name: str) -> Template:
    environment = Environment(
        autoescape=True,
        finalize=_shown,
        loader=FunctionLoader(_asset),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, short=_short, utc=_utc)
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    """What an expression of the template becomes before it is escaped."""
    if value is None:
        return ""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _utc(text: str) -> str:
    """A time of a document, to the minute: 2031-02-03 04:05 UTC."""
    return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    """A large number in three digits: 36.4 million."""
    for power, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= power:
            return f"{value / power:.{1 if value < 100 * power else 0}f} {name}"
    return _number(value)
