"""Fleets of any size, of hosts as one finds them in a roll-out: `python -m tests.support.fleet DIR HOSTS VMS`.

Every report comes from the code that makes a real one; hosts of one kind then differ in their names, flavors, projects,
and in how far their VMs are. The same numbers give the same fleet.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pmuconf.fleet.absent import AbsentHost
from pmuconf.fleet.aggregate import Aggregate, of_host
from pmuconf.fleet.document import document
from pmuconf.fleet.files import Head, Problem, read_head
from pmuconf.fleet.hostreport import read
from pmuconf.fleet.report import Fleet
from pmuconf.hostfacts import Copies, HostFacts, Verdict
from tests.support.hostile import PAYLOADS
from tests.support.sample import AT, FACTS, KINDS, Kind, many

__all__ = ["FACTS_OF", "fleet", "host", "hostile", "joined", "of_version_1", "write"]

_PATCH: Final = "a kernel with the guard (contrib/kernel)"


def _kernel(verdict: Verdict, release: str, build_id: str, **facts: Any) -> HostFacts:
    guard = replace(
        FACTS.guard,
        verdict=verdict,
        cause="for-the-test",
        build_id=build_id,
        copies=Copies(),
        remedy="" if verdict in (Verdict.GUARDED, Verdict.EARLY_OUT, Verdict.NO_CALL) else _PATCH,
    )
    return replace(FACTS, guard=guard, release=release, **facts)


FACTS_OF: Final[dict[str, tuple[int, HostFacts | None]]] = {
    "guarded": (8, FACTS),
    "unguarded": (5, _kernel(Verdict.UNGUARDED, "6.1.0-18-amd64", "1f" * 20)),
    "unguarded-newer": (3, _kernel(Verdict.UNGUARDED, "6.1.0-21-amd64", "2e" * 20)),
    "livepatched": (1, _kernel(Verdict.PARTIAL, "6.1.0-18-amd64", "1f" * 20, livepatches=("guard 1 0",))),
    "early-out": (2, _kernel(Verdict.EARLY_OUT, "6.18.2-amd64", "3d" * 20, cycles=None)),
    "no-call": (1, _kernel(Verdict.NO_CALL, "5.10.0-28-amd64", "4c" * 20)),
    "unknown": (1, _kernel(Verdict.UNKNOWN, "6.8.0-31-generic", "5b" * 20)),
    "parameter": (1, replace(FACTS, enable_pmu=False)),
    "elsewhere": (1, None),
}
"""Kinds of hosts, how many of them there are to the others, and what was found of their kernel."""


def host(kind: str, name: str, vms: int, chance: random.Random, at: datetime = AT) -> dict[str, Any]:
    """The report of one host."""
    facts = FACTS_OF[kind][1]
    kinds = [_vm(one, at_) for at_, one in enumerate(chance.choices(KINDS, k=vms))]
    made = many(kinds, facts, name, at)
    for record in made["domains"]:
        _rename(record, chance)
    return made


def fleet(hosts: int, vms: int, seed: int = 1, at: datetime = AT) -> Iterator[dict[str, Any]]:
    """The reports of so many hosts with so many VMs each; each is to be used before the next is asked for."""
    chance = random.Random(seed)
    kinds = list(FACTS_OF)
    weights = [weight for weight, _ in FACTS_OF.values()]
    models = {kind: [host(kind, "", vms, chance, at) for _ in range(4)] for kind in kinds}
    for number in range(hosts):
        made = chance.choice(models[chance.choices(kinds, weights)[0]])
        made["host"] = f"compute-{number:05}.example.org"
        made["generated_at"] = (at - timedelta(seconds=chance.randrange(6 * 3600))).isoformat(timespec="seconds")
        for record in made["domains"]:
            _rename(record, chance)
        yield made


def write(folder: Path, hosts: int, vms: int, seed: int = 1, at: datetime = AT) -> None:
    """Write them, each to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for made in fleet(hosts, vms, seed, at):
        (folder / f"{made['host'].partition('.')[0]}.json").write_text(json.dumps(made, indent=2) + "\n")


def hostile() -> dict[str, Any]:
    """The fleet's document with hostile text in all places where somebody else's can be."""
    reports = []
    for number, payload in enumerate(PAYLOADS):
        made = host("unguarded" if number % 2 else "guarded", payload[:255], 6, random.Random(number))
        facts = made["host_facts"]
        facts["release"] = facts["guard"]["build_id"] = payload
        for record in made["domains"]:
            record["flavor"] = record["project"] = record["name"] = payload
            for qemu in filter(None, (record["qemu"], record["next_qemu"])):
                qemu["path"] = qemu["build_id"] = payload
        reports.append(made)
    return joined(
        reports,
        problems=[Problem(payload, "report-broken", payload, payload) for payload in PAYLOADS],
        absent=[AbsentHost(payload, "unreachable", payload, AT, AT) for payload in PAYLOADS],
    )


def joined(reports: Iterable[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The fleet's document of these reports.

    :param more: problems, absent, stale of Fleet.
    """
    made = Aggregate()
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(reports):
            path = Path(folder) / f"{number}.json"
            path.write_text(json.dumps(one))
            found = read_head(str(path))
            if not isinstance(found, Head):
                raise ValueError(found.message)
            made.add(of_host(read(found)))
    return document(Fleet(made, AT, **more), top=50)


def _vm(kind: Kind, number: int) -> Kind:
    return replace(kind, names=(f"vm-{number}",), exits=kind.exits and kind.exits + number)


def _rename(record: dict[str, Any], chance: random.Random) -> None:
    record["uuid"] = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    record["name"] = f"instance-{chance.getrandbits(32):08x}"
    if record["flavor"] is not None:
        record["flavor"] = f"{record['flavor'].partition('-')[0]}-{chance.randrange(8)}"
        record["project"] = f"{chance.randrange(2000):032x}"


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), at=datetime.now().astimezone())


def of_version_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same report in version 1 of the format, as pmuconf 0.1.0 wrote it."""
    old: dict[str, Any] = json.loads(json.dumps(document))
    old["version"] = 1
    if old["worth"] is not None:
        old["worth"]["to_win_per_second"] = old["worth"].pop("savable_per_second")
    for record in old["domains"]:
        record["remade"] = record.pop("may_be_recreated")
        record["remedy"] = "; ".join(remedy["text"] for remedy in record.pop("remedies"))
        del record["overridden"]
    return old
