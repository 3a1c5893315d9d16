"""The Grafana board's queries, as Prometheus gets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

__all__ = ["queries"]

_BOARD: Final = Path(__file__).resolve().parents[2] / "etc/grafana/pmuconf.json"


def queries(interval: str = "1m") -> list[str]:
    """All of them, with Grafana's variables filled in: every host, and rates over this interval."""
    board = json.loads(_BOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [query.replace("$instance", ".*").replace("$__rate_interval", interval) for query in found]
