"""The sample configurations: made of the options, taken whole, and with a rule that decides what it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from pmuconf_nova import options as nova_options

from pmuconf import conf
from pmuconf.domain.definition import PmuState
from pmuconf.policy import Decision, Policy, Subject, decide
from tests.samples import sample

ETC = Path(__file__).resolve().parents[3] / "etc"
SAMPLE = ETC / "pmuconf/pmuconf.conf.sample"
NOVA = ETC / "nova/pmuconf-nova.conf.sample"


def uncommented(path: Path) -> str:
    """With the # taken away in front of every option."""
    return re.sub(r"^#(\w+ =)", r"\1", path.read_text(), flags=re.MULTILINE)


def test_the_sample_is_what_the_options_make_now() -> None:
    assert SAMPLE.read_text() == sample("pmuconf"), "make sample"


@pytest.mark.parametrize("path", [SAMPLE, NOVA], ids=lambda path: path.name)
def test_nothing_in_it_is_empty(path: Path) -> None:
    text = path.read_text()
    for words in ("No description provided", "<None>", "sample default", "::\n"):
        assert words not in text
    for group in re.split(r"\n(?=\[)", text)[1:]:
        assert re.search(r"^#\w+ =", group, re.MULTILINE), f"nothing is in {group}"
        assert max(map(len, text.splitlines())) <= 100


def test_it_is_accepted_as_it_is_and_means_the_defaults() -> None:
    chosen = conf.load([str(SAMPLE)])
    assert chosen == replace(conf.load(["/dev/null"]), files=chosen.files)
    assert chosen.policy == Policy()
    assert chosen.unused_rules == ()


def test_with_every_line_uncommented_it_means_the_defaults_too(tmp_path: Path) -> None:
    """But for the rule that nothing lists."""
    path = tmp_path / "pmuconf.conf"
    path.write_text(uncommented(SAMPLE))
    options = re.findall(r"^(\w+) =", path.read_text(), re.MULTILINE)
    assert len(options) == sum(len(opts) for _, opts in conf.list_opts())
    chosen = conf.load([str(path)])
    assert chosen == replace(conf.load(["/dev/null"]), files=chosen.files, unused_rules=("name",))


def test_every_option_has_a_help_text_and_is_in_its_group() -> None:
    text = SAMPLE.read_text()
    for group, opts in conf.list_opts():
        assert group.help
        (section,) = re.findall(rf"^\[{group.name}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert re.findall(r"^#(\w+) =", section, re.MULTILINE) == [opt.name for opt in opts]
        assert all(opt.help for opt in opts)


def test_the_plugin_takes_every_line_of_its_sample(tmp_path: Path) -> None:
    """Nova itself in tests/nova."""
    path = tmp_path / "nova.conf"
    path.write_text(uncommented(NOVA))
    asked: Any = cfg.ConfigOpts()
    nova_options.register(asked)
    asked.register_opt(cfg.StrOpt("compute_driver"))
    asked([], default_config_files=[str(path)])
    assert asked.compute_driver == "pmuconf.LibvirtDriver"
    assert dict(asked.pmuconf) == {
        "policy_file": "/etc/pmuconf/pmuconf.conf",
        "strict": False,
        "record_decision": "no",
    }


@pytest.mark.parametrize("path", [SAMPLE, NOVA], ids=lambda path: path.name)
def test_the_worked_rule_decides_what_it_says(path: Path, tmp_path: Path) -> None:
    """perf.* keep their PMU, and no other VM has one."""
    worked = tmp_path / "worked.conf"
    worked.write_text("\n".join(re.findall(r"^# {5}(.*)$", path.read_text(), re.MULTILINE)))
    assert worked.read_text().count("[") == 2
    chosen = conf.load([str(worked)])
    assert chosen.unused_rules == ()

    def decided(flavor: str | None) -> tuple[Decision, str, str]:
        ruling = decide(chosen.policy, Subject("kvm", "x86_64", flavor=flavor, pmu=PmuState.DEFAULT))
        return ruling.decision, ruling.rule, ruling.reason

    assert decided("perf.large")[:2] == (Decision.ON, "profiling")
    assert "these tenants run perf" in decided("perf.large")[2]
    assert decided("m1.small")[:2] == decided(None)[:2] == (Decision.OFF, "default")
