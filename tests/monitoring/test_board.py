"""The Grafana board: what it asks is there, and a host counts once, however many jobs scrape it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from pmuconf.conf import load
from pmuconf.errors import PmuconfError
from pmuconf.report.prometheus import NOT_JUDGED, prometheus_text
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.support.board import Query, board, queries
from tests.support.metrics import series_names
from tests.support.prometheus import Prometheus, node_exporter
from tests.support.sample import FACTS, KINDS, Kind, many

CHOSEN: Final = 'job=~"$job",instance=~"($host)(:[0-9]+)?"'
PORTLESS: Final = '"host", "$1", "instance", "(.+?)(:[0-9]+)?"'
TOOLS: Final = ("prometheus", "promtool", "prometheus-node-exporter")
requires_prometheus = pytest.mark.skipif(
    None in map(shutil.which, TOOLS), reason="Prometheus and node_exporter are not installed"
)
Document = Mapping[str, Any]


# ---- what it is


def test_the_board_can_be_imported() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    cells = [cell for panel in panels for cell in _cells(panel["gridPos"])]
    assert len(set(cells)) == len(cells)  # none covers another


def _cells(place: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_every_metric_that_the_board_asks_for_exists() -> None:
    variables = [variable["definition"] for variable in board()["templating"]["list"] if "definition" in variable]
    texts = [query.text for query in queries()] + variables
    asked = {name for text in texts for name in re.findall(r"\b(?:pmuconf|process)_\w+", text)}
    assert len(asked) > 20
    assert asked <= series_names()


def test_every_panel_says_what_it_shows() -> None:
    for panel in board()["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel} {query.legend}")
def test_a_panel_asks_for_the_chosen_jobs_and_hosts_and_for_one_source_of_each(query: Query) -> None:
    selectors = re.findall(r"\{([^}]*)\}", query.text)
    assert selectors
    for selector in selectors:
        assert selector.startswith(CHOSEN)
    if query.panel not in ("Targets not reached", "Memory of the service", "Processor time of the service"):
        assert "topk by (host) (1, label_replace(" in query.text
    assert query.text.count(PORTLESS) == query.text.count("label_replace(")


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel} {query.legend}")
def test_a_panel_has_the_unit_of_what_it_shows(query: Query) -> None:
    units = {
        "percentunit": r" / |process_cpu_seconds_total",
        "s": r"^time\(\) - |reaction_seconds|pass_seconds\{",
        "bytes": "_bytes",
        "hertz": "cycles_per_second",
        "cpm": r"^60 \* .*changes_total",
        "epm": r"^60 \* .*(events|connections)_total",
    }
    fitting = [unit for unit, pattern in units.items() if re.search(pattern, query.text)]
    assert [query.unit] == (fitting or ["short"])


def test_the_variables_are_job_and_host_and_all_of_them_by_default() -> None:
    job, host = board()["templating"]["list"][1:]
    assert (job["name"], host["name"]) == ("job", "host")
    for variable in (job, host):
        assert variable["multi"] is variable["includeAll"] is True
        assert variable["allValue"] == ".*"
        assert variable["current"]["value"] == ["$__all"]
        assert variable["query"]["query"] == variable["definition"]
    assert 'job=~"$job"' in host["definition"]


@pytest.mark.parametrize(
    ("instance", "name"),
    [
        ("compute-1.example.org:9754", "compute-1.example.org"),
        ("compute-1.example.org:9100", "compute-1.example.org"),
        ("compute-1", "compute-1"),
        ("192.0.2.7:9754", "192.0.2.7"),
        ("[2001:db8::7]:9754", "[2001:db8::7]"),
    ],
)
def test_a_host_is_what_is_before_the_port(instance: str, name: str) -> None:
    host = board()["templating"]["list"][2]
    match = re.search(host["regex"].strip("/"), instance)
    assert match is not None
    assert match.group(1) == name
    assert re.fullmatch(CHOSEN.split('"')[3].replace("$host", re.escape(name)), instance)
    match = re.fullmatch(PORTLESS.split('"')[7], instance)
    assert match is not None
    assert match.group(1) == name


# ---- hosts that are scraped in two ways, by a real Prometheus

NOW: Final = datetime.now(timezone.utc).replace(microsecond=0)
OTHERWISE: Final = tuple(replace(kind, next_boot=kind.live) for kind in KINDS[5:9]) + KINDS[9:12]
"""VMs of whom an older report says something else, and fewer."""
SERVED: Final = "pmuconf"
TEXTFILE: Final = "node"


def report(host: str, age: int, kinds: tuple[Kind, ...], *, counted: bool) -> dict[str, Any]:
    """The report of a host so many seconds ago, with VMs of its own; only a timer's has counted exits."""
    document = many(kinds, FACTS, host, NOW - timedelta(seconds=age))
    for vm in document["domains"]:
        vm["uuid"] = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{vm['name']}.{host}"))
    assert document["worth"] is not None
    return document if counted else {**document, "worth": None}


class Service:
    """What a running service publishes, as its loop does it."""

    def __init__(self, address: str, document: Document, textfile: Path | None = None) -> None:
        self.health = Health()
        self.health.configured(enforces=True, patience=3600)
        self.health.connected(yes=True)
        self.health.passed()
        self.health.began(datetime.fromisoformat(document["generated_at"]).timestamp())
        self.health.pass_seconds.set(0.5)
        self.health.failed.set(2)
        self.health.waiting.set(3)
        self.health.trouble("libvirt", PmuconfError("it broke", cause="libvirt-lost"))
        self.outputs = Outputs(self.health)
        self.outputs.publish(document, replace(load([os.devnull]).service, textfile=textfile))
        self.outputs.listen((address, 0))
        assert self.outputs.address is not None
        self.target = f"{address}:{self.outputs.address[1]}"


@dataclass(frozen=True)
class Fleet:
    """Hosts that are scraped.

    :param true: the newest report of each host.
    :param counted: the newest one that has counted exits, of those that have one.
    :param written: what the textfiles say, for whom the service is not asked.
    :param served: the hosts that run a service.
    """

    prometheus: Prometheus
    true: Mapping[str, Document]
    counted: Mapping[str, Document]
    written: Mapping[str, Document]
    served: tuple[str, ...]

    def of(self, *hosts: str) -> Fleet:
        """These hosts of it."""
        true, counted, written = (
            {host: document for host, document in documents.items() if host in hosts}
            for documents in (self.true, self.counted, self.written)
        )
        return Fleet(self.prometheus, true, counted, written, tuple(host for host in self.served if host in hosts))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Five hosts, each on an address of its own: three are scraped in both ways."""
    folder = tmp_path_factory.mktemp("fleet")
    first, second, third, fourth, fifth = (f"127.0.0.{number}" for number in range(1, 6))
    newest = {
        first: report(first, 10, KINDS, counted=False),
        second: report(second, 20, KINDS[:8], counted=True),
        third: report(third, 30, KINDS[2:], counted=False),
        fourth: report(fourth, 1500, KINDS[:9], counted=True),
        fifth: report(fifth, 40, KINDS[4:12], counted=False),
    }
    before = report(first, 300, OTHERWISE, counted=True)
    served = {
        first: newest[first],
        second: report(second, 500, OTHERWISE, counted=False),
        third: newest[third],
        fifth: newest[fifth],
    }
    written = {first: before, second: newest[second], fourth: newest[fourth], fifth: newest[fifth]}
    jobs: dict[str, list[str]] = {SERVED: [], TEXTFILE: []}
    with ExitStack() as stack:
        for address, document in written.items():
            (folder / address).mkdir()
            (folder / address / "pmuconf.prom").write_text(prometheus_text(document))
            jobs[TEXTFILE].append(stack.enter_context(node_exporter(folder / address, address)))
        for address, document in served.items():
            # The fifth writes its own textfile beside its /metrics.
            service = Service(address, document, folder / fifth / "pmuconf.prom" if address == fifth else None)
            stack.callback(service.outputs.close)
            jobs[SERVED].append(service.target)
        (folder / "prometheus").mkdir()
        prometheus = stack.enter_context(Prometheus.of(folder / "prometheus", jobs))
        prometheus.wait_for("pmuconf_report_timestamp_seconds", 8)
        prometheus.wait_for("pmuconf_service_healthy", 5)
        counted = {first: before, second: newest[second], fourth: newest[fourth]}
        yield Fleet(prometheus, newest, counted, written, tuple(served))


def counts(labels: Iterable[str]) -> dict[tuple[str, ...], float]:
    """How often each label is there, as Prometheus.values() gives it."""
    return {(label,): number for label, number in Counter(labels).items()}


def expected(hosts: Fleet) -> dict[tuple[str, str], dict[tuple[str, ...], float]]:
    """What the panels have to show, by their titles and legends: counted from the reports, without Prometheus."""
    reports, services = hosts.true.values(), len(hosts.served)
    vms = [vm for document in reports for vm in document["domains"]]
    kinds = ("running", "drift", "pending", "transient", "undecided", "errors")
    total = {kind: sum(document["summary"][kind] for document in reports) for kind in kinds}
    fast = counts(vm["fast_path"] or NOT_JUDGED for vm in vms)
    worth = [document["worth"] for document in hosts.counted.values()]
    single = {
        "Hosts": len(reports),
        "Targets not reached": 0,
        "Services in trouble": services,
        "Changes that failed": 2 * services,
        "Changes that wait": 3 * services,
        "VMs": len(vms),
        "On the fast path": fast.get(("yes",), 0) / total["running"],
        "Drift": total["drift"],
        "Pending": total["pending"],
        "Unknown": fast.get(("unknown",), 0),
        "VMs reported twice": 0,
    }
    saved = "Cycles saved, and that could be saved"
    return {
        **{(title, ""): {(): float(value)} for title, value in single.items()},
        **{("Policy", kind): {(): total[kind]} for kind in kinds if kind != "running"},
        ("VMs by fast path", "{{fast_path}}"): fast,
        ("Why not", "{{cause}}"): counts(vm["cause"] or NOT_JUDGED for vm in vms if vm["fast_path"] != "yes"),
        ("PMU in the kernel", "{{in_kernel_pmu}}"): counts(
            vm["in_kernel_pmu"] or "unknown" for vm in vms if vm["running"]
        ),
        ("Kernels", "{{verdict}}"): counts(document["host_facts"]["guard"]["verdict"] for document in reports),
        (saved, "saved"): {(): sum(saving["saved_per_second"] for saving in worth)} if worth else {},
        (saved, "could be saved"): {(): sum(saving["savable_per_second"] for saving in worth)} if worth else {},
    }


def shown(
    prometheus: Prometheus, job: str = ".*", host: str = ".*"
) -> dict[tuple[str, str], dict[tuple[str, ...], float]]:
    """What the panels show that expected() has, without zeros beside other numbers."""
    panels = {}
    for query in queries():
        if query.kind == "table" or query.unit in ("s", "bytes", "cpm", "epm") or "[$__rate" in query.text:
            continue
        labels = re.findall(r"\{\{(\w+)\}\}", query.legend)
        values = prometheus.values(query.filled(job, host), *labels)
        panels[query.panel, query.legend] = {key: value for key, value in values.items() if value or not labels}
    return panels


@requires_prometheus
def test_each_vm_counts_once(fleet: Fleet) -> None:
    assert shown(fleet.prometheus) == expected(fleet)


@requires_prometheus
def test_a_sum_over_all_series_would_count_vms_twice(fleet: Fleet) -> None:
    """As would the newest value of each series: a VM has another cause in the older report."""
    ((_, true),) = expected(fleet)["VMs", ""].items()
    assert fleet.prometheus.values("sum(pmuconf_vms)")[()] > true
    host = "label_replace(pmuconf_vms, " + PORTLESS + ")"
    assert fleet.prometheus.values(f"sum(max by (host, fast_path, cause) ({host}))")[()] > true


@requires_prometheus
@pytest.mark.parametrize(
    "hosts", [("127.0.0.1",), ("127.0.0.4",), ("127.0.0.2", "127.0.0.4"), ("127.0.0.5", "127.0.0.3", "127.0.0.1")]
)
def test_hosts_can_be_chosen(fleet: Fleet, hosts: tuple[str, ...]) -> None:
    escaped = [host.replace(".", "\\\\.") for host in hosts]  # as Grafana writes them into a query
    chosen = escaped[0] if len(hosts) == 1 else "(" + "|".join(escaped) + ")"
    assert shown(fleet.prometheus, host=chosen) == expected(fleet.of(*hosts)) | without_services(fleet.of(*hosts))


@requires_prometheus
def test_jobs_can_be_chosen(fleet: Fleet) -> None:
    """The textfiles alone: what they say is then what is known, and one has its service's state."""
    counted = {host: document for host, document in fleet.written.items() if document["worth"]}
    textfiles = replace(fleet, true=fleet.written, counted=counted, served=("127.0.0.5",))
    assert shown(fleet.prometheus, job=TEXTFILE) == expected(textfiles)
    assert shown(fleet.prometheus, job=f"({SERVED}|{TEXTFILE})") == expected(fleet)


def without_services(hosts: Fleet) -> dict[tuple[str, str], dict[tuple[str, ...], float]]:
    """The panels that show nothing, rather than 0, where no host has a service."""
    return {} if hosts.served else {("Changes that failed", ""): {}, ("Changes that wait", ""): {}}


@requires_prometheus
def test_the_other_panels_show_each_host_once(fleet: Fleet) -> None:
    texts = {(query.panel, query.legend): query.filled() for query in queries()}
    ages = fleet.prometheus.values(texts["Age of the report", "{{host}}"], "host")
    assert {host for (host,) in ages} == fleet.true.keys()
    assert max(ages.values()) == ages["127.0.0.4",]
    oldest = fleet.prometheus.values(texts["Oldest report", ""])[()]
    assert 1500 <= ages["127.0.0.4",] <= oldest < 1500 + 600
    assert ages["127.0.0.2",] < 500
    for panel, legend in (
        ("Age of the report", "{{host}}: how long it took"),
        ("Memory of the service", "{{host}}"),
    ):
        assert {host for (host,) in fleet.prometheus.values(texts[panel, legend], "host")} == set(fleet.served)
    trouble = fleet.prometheus.values(texts["Trouble", ""], "host", "area", "cause")
    assert trouble.keys() == {(host, "libvirt", "libvirt-lost") for host in fleet.served}
    rows = fleet.prometheus.values(texts["VMs that are not on the fast path", ""], "host", "uuid")
    vms = [(host, vm) for host, document in fleet.true.items() for vm in document["domains"]]
    assert rows.keys() == {(host, vm["uuid"]) for host, vm in vms if vm["fast_path"] != "yes"}


# ---- rates, and what is not the service's: by promtool, with series made up for it

PAIR: Final = ('job="pmuconf",instance="compute-1:9754"', 'job="node",instance="compute-1:9100"')
ALONE: Final = 'job="pmuconf",instance="compute-2:9754"'
HISTOGRAM: Final = "pmuconf_service_reaction_seconds_bucket"
SERIES: Final = {
    **{f"pmuconf_service_last_pass_timestamp_seconds{{{source}}}": "0+60x20" for source in (*PAIR, ALONE)},
    **{f"pmuconf_service_connected{{{source}}}": "1x20" for source in (*PAIR, ALONE)},
    **{f'pmuconf_service_changes_total{{{source},outcome="changed"}}': "0+6x20" for source in (*PAIR, ALONE)},
    **{f'pmuconf_service_events_total{{{source},event="defined"}}': "0+12x20" for source in (*PAIR, ALONE)},
    **{f"pmuconf_service_connections_total{{{source}}}": "0+1x20" for source in (*PAIR, ALONE)},
    # compute-1 reacts within 0.1 s, compute-2 takes up to 1 s.
    **{f'{HISTOGRAM}{{{source},le="{le}"}}': "0+6x20" for source in PAIR for le in ("0.1", "1.0", "+Inf")},
    **{
        f'{HISTOGRAM}{{{ALONE},le="{le}"}}': values
        for le, values in {"0.1": "0x20", "1.0": "0+6x20", "+Inf": "0+6x20"}.items()
    },
    # node_exporter's process is not the service's.
    f"node_textfile_scrape_error{{{PAIR[1]}}}": "0x20",
    f"process_resident_memory_bytes{{{PAIR[0]}}}": "64e6x20",
    f"process_resident_memory_bytes{{{PAIR[1]}}}": "999e6x20",
    f"process_resident_memory_bytes{{{ALONE}}}": "65e6x20",
    f"process_cpu_seconds_total{{{PAIR[0]}}}": "0+3x20",
    f"process_cpu_seconds_total{{{PAIR[1]}}}": "0+30x20",
    f"process_cpu_seconds_total{{{ALONE}}}": "0+6x20",
    'process_resident_memory_bytes{job="other",instance="compute-3:80"}': "1e6x20",
    # A target that is down, and one that never was pmuconf's.
    f"up{{{PAIR[0]}}}": "1x20",
    f"up{{{ALONE}}}": "1x10 0x10",
    f"pmuconf_build_info{{{ALONE}}}": "1x10 stale",
    'up{job="other",instance="compute-3:80"}': "0x20",
}
RATES: Final = {
    ("Changes a minute", "{{outcome}}"): {'{outcome="changed"}': 12.0},
    ("Events a minute", "{{event}}"): {'{event="defined"}': 24.0},
    ("Events a minute", "connections"): {"{}": 2.0},
    ("From event to change", "median"): {"{}": 0.1},
    ("From event to change", "99 %"): {"{}": 0.982},
    ("Memory of the service", "{{host}}"): {'{host="compute-1"}': 64e6, '{host="compute-2"}': 65e6},
    ("Processor time of the service", "{{host}}"): {'{host="compute-1"}': 0.05, '{host="compute-2"}': 0.1},
    ("Targets not reached", ""): {"{}": 1.0},
}


def evaluated(folder: Path, texts: Mapping[tuple[str, str], str]) -> subprocess.CompletedProcess[str]:
    """What promtool says of these queries over SERIES, and of their values."""
    cases = [
        {
            "expr": text,
            "eval_time": "15m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in RATES[key].items()],
        }
        for key, text in texts.items()
    ]
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    tests = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": cases}],
    }
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    command = ["promtool", "test", "rules", str(folder / "tests.yml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@requires_prometheus
def test_rates_count_a_service_once_and_node_exporter_is_not_taken_for_it(tmp_path: Path) -> None:
    texts = {(query.panel, query.legend): query.filled(interval="4m") for query in queries()}
    ran = evaluated(tmp_path, {key: texts[key] for key in RATES})
    assert ran.returncode == 0, ran.stdout + ran.stderr


@requires_prometheus
@pytest.mark.parametrize("key", [key for key in RATES if key[0] != "Targets not reached"])
def test_without_the_choice_of_one_source_rates_would_be_wrong(key: tuple[str, str], tmp_path: Path) -> None:
    (text,) = [query.filled(interval="4m") for query in queries() if (query.panel, query.legend) == key]
    wrong = text.replace("topk by (host) (1, ", "topk by (host) (9, ")
    wrong = wrong.replace(" unless on (job, instance) node_textfile_scrape_error", "")
    assert wrong != text
    assert evaluated(tmp_path, {key: wrong}).returncode != 0
