"""The names of all series that a service can have, with those of its report and its process."""

from __future__ import annotations

import re

from pmuconf.change.result import Outcome
from pmuconf.errors import PmuconfError
from pmuconf.report.prometheus import prometheus_text
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.support.sample import sample

__all__ = ["series_names"]


def series_names() -> set[str]:
    """Every name, those of a histogram's parts too."""
    health = Health()
    health.events.labels("defined")
    health.changes.labels(Outcome.CHANGED.value)
    health.trouble("libvirt", PmuconfError("", cause="libvirt-lost"))
    text = prometheus_text(sample()) + Outputs(health).metrics().decode()
    return set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
