"""The Grafana board's queries, as Prometheus gets them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Query", "board", "queries"]

_BOARD: Final = Path(__file__).resolve().parents[2] / "etc/grafana/pmuconf.json"


@dataclass(frozen=True)
class Query:
    """One query of a panel, with Grafana's variables still in it."""

    panel: str
    kind: str
    unit: str
    legend: str
    text: str

    def filled(self, job: str = ".*", host: str = ".*", interval: str = "1m") -> str:
        """What Prometheus is asked: for these jobs and hosts as regular expressions, with rates over this interval."""
        text = self.text
        for name, value in {"$job": job, "$host": host, "$__rate_interval": interval}.items():
            text = text.replace(name, value)
        return text


def board() -> dict[str, Any]:
    """The board as it is imported."""
    content: dict[str, Any] = json.loads(_BOARD.read_text())
    return content


def queries() -> list[Query]:
    """All of them, in the order of the panels."""
    return [
        Query(
            panel["title"],
            panel["type"],
            panel["fieldConfig"]["defaults"]["unit"],
            target["legendFormat"],
            target["expr"],
        )
        for panel in board()["panels"]
        for target in panel["targets"]
    ]
