"""The configuration as it is read: defaults, every option, several files and folders, the sample."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

import pytest

import pmuconf
from pmuconf import conf
from pmuconf.conf import Mode, ServiceSettings, Settings, options, settings
from pmuconf.domain.xmltext import MAX_XML_BYTES
from pmuconf.policy import CRITERIA, Decision, NovaDomains, Policy, Rule

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration file below the test's own folder and gives its path."""

    def writing(text: str, name: str = "pmuconf.conf") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return writing


# ---- defaults and options ------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults_pmu_off_for_all(write: Write) -> None:
    path = write("")
    assert conf.load([path]) == Settings(
        policy=Policy(default=Decision.OFF, rules=(), nova_domains=NovaDomains.ENFORCE),
        uri="qemu:///system",
        parallel=6,
        max_xml_bytes=MAX_XML_BYTES,
        max_changes=100,
        attempts=5,
        journal=Path("/var/lib/pmuconf/journal.sqlite"),
        retention_days=365,
        prove=False,
        max_failures=3,
        service=ServiceSettings(
            mode=Mode.OBSERVE,
            rule_modes={},
            interval=600,
            debounce=0.2,
            changes_per_minute=60,
            max_failures=3,
            listen=("127.0.0.1", 9754),
            host_names=(),
            textfile=None,
            html=None,
            host_facts=Path("/run/pmuconf/host-facts.json"),
            log_format="text",
        ),
        files=(path,),
        unused_rules=(),
    )


def test_every_option_is_read(write: Write) -> None:
    path = write(
        """
        [policy]
        default = keep
        rules = profilers, second
        nova_domains = observe

        [rule:profilers]
        pmu = on
        reason = They run perf: asked for on Monday.
        flavor = perf.*, *.dedicated
        flavor_id = 42
        extra_spec = hw:cpu_policy=dedicated, trait:X
        image_property = os_distro=win*
        project = c0ffee
        attribute = team=lab, prof
        domain = web-*, 1b4e28ba-2fa1-11d2-883f-0016d3cca427
        arch = x86_64, i686
        virt_type = kvm

        [rule:second]
        pmu = keep
        flavor = x

        [libvirt]
        uri = qemu+ssh://host/system
        parallel = 32
        max_xml_bytes = 4096

        [change]
        max_changes = 0
        max_failures = 9
        attempts = 1

        [journal]
        path = /srv/journal
        retention_days = 1

        [host]
        prove = true
        """.replace("\n        ", "\n")
    )
    profilers = Rule(
        name="profilers",
        decision=Decision.ON,
        reason="They run perf: asked for on Monday.",
        flavor=("perf.*", "*.dedicated"),
        flavor_id=("42",),
        extra_spec=("hw:cpu_policy=dedicated", "trait:X"),
        image_property=("os_distro=win*",),
        project=("c0ffee",),
        attribute=("team=lab", "prof"),
        domain=("web-*", "1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
        arch=("x86_64", "i686"),
        virt_type=("kvm",),
    )
    assert set(profilers.criteria) == set(CRITERIA)
    assert conf.load([path]) == Settings(
        policy=Policy(Decision.KEEP, (profilers, Rule("second", Decision.KEEP, flavor=("x",))), NovaDomains.OBSERVE),
        uri="qemu+ssh://host/system",
        parallel=32,
        max_xml_bytes=4096,
        max_changes=0,
        max_failures=9,
        attempts=1,
        journal=Path("/srv/journal"),
        retention_days=1,
        prove=True,
        service=conf.load([os.devnull]).service,
        files=(path,),
        unused_rules=(),
    )


def test_every_option_of_the_service_is_read(write: Write) -> None:
    path = write(
        """
        [policy]
        rules = a, b
        [rule:a]
        pmu = on
        flavor = x
        mode = observe
        [rule:b]
        pmu = on
        flavor = y
        [service]
        mode = enforce
        interval = 60
        debounce = 0.5
        changes_per_minute = 0
        max_failures = 0
        listen = [2001:db8::1]:80
        listen_beyond_loopback = true
        host_names = Compute1.example.org., h1
        textfile = /srv/pmuconf.prom
        html = /srv/pmuconf.html
        host_facts =
        log_format = json
        """.replace("\n        ", "\n")
    )
    chosen = conf.load([path]).service
    assert chosen == ServiceSettings(
        mode=Mode.ENFORCE,
        rule_modes={"a": Mode.OBSERVE},
        interval=60,
        debounce=0.5,
        changes_per_minute=0,
        max_failures=0,
        listen=("2001:db8::1", 80),
        host_names=("compute1.example.org", "h1"),
        textfile=Path("/srv/pmuconf.prom"),
        html=Path("/srv/pmuconf.html"),
        host_facts=None,
        log_format="json",
    )
    assert [chosen.mode_of(rule) for rule in ("a", "b", "default")] == [Mode.OBSERVE, Mode.ENFORCE, Mode.ENFORCE]
    assert conf.load([write("[service]\nlisten =\n")]).service.listen is None


def test_rules_stand_in_the_order_of_the_list_not_of_the_groups(write: Write) -> None:
    groups = "".join(f"[rule:{name}]\npmu = on\nflavor = {name}\n" for name in "abc")
    chosen = conf.load([write(f"[policy]\nrules = c, a, b\n{groups}")])
    assert [rule.name for rule in chosen.policy.rules] == ["c", "a", "b"]


def test_a_rule_that_is_not_listed_is_told_and_does_not_decide(write: Write) -> None:
    groups = "".join(f"[rule:{name}]\npmu = on\nflavor = {name}\n" for name in "cab")
    chosen = conf.load([write(f"[policy]\nrules = a\n{groups}")])
    assert [rule.name for rule in chosen.policy.rules] == ["a"]
    assert chosen.unused_rules == ("b", "c")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a, b", ("a", "b")),
        ("a\\, b", ("a, b",)),
        ("a\\,b,c", ("a,b", "c")),
        ("x, a\\, b\\, c , y", ("x", "a, b, c", "y")),
        ("\\,a", (",a",)),
        ("DOM\\user, [win10] work", ("DOM\\user", "[win10] work")),
        ('"a"', ("a",)),
        ('"a\\, b"', ("a, b",)),
        ("bob's", ("bob's",)),
    ],
)
def test_a_comma_that_belongs_to_a_name_is_written_with_a_backslash(
    write: Write, written: str, meant: tuple[str, ...]
) -> None:
    (rule,) = conf.load([write(f"[policy]\nrules = a\n[rule:a]\npmu = on\ndomain = {written}\n")]).policy.rules
    assert rule.domain == meant


@pytest.mark.parametrize("name", ["a", "A", "9", "profilers-2.old_x"])
def test_names_that_a_rule_may_have(write: Write, name: str) -> None:
    (rule,) = conf.load([write(f"[policy]\nrules = {name}\n[rule:{name}]\npmu = on\nflavor = x\n")]).policy.rules
    assert rule == Rule(name, Decision.ON, flavor=("x",))


def test_line_ends_of_another_system_do_no_harm(write: Write) -> None:
    path = write("")
    Path(path).write_bytes(b"[policy]\r\ndefault = keep\r\n")
    assert conf.load([path]).policy.default is Decision.KEEP


def test_the_environment_has_no_say(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """One policy file gives one answer, whoever asks."""
    monkeypatch.setenv("OS_POLICY__DEFAULT", "on")
    monkeypatch.setenv("OS_CHANGE__MAX_CHANGES", "1")
    chosen = conf.load([write("")])
    assert (chosen.policy.default, chosen.max_changes) == (Decision.OFF, 100)


# ---- several files and folders -------------------------------------------------------------------------------------


def test_of_several_files_the_last_word_counts_option_by_option(write: Write) -> None:
    first = write("[policy]\ndefault = on\nnova_domains = observe\n[change]\nattempts = 2\n", "first.conf")
    second = write("[policy]\ndefault = keep\n", "second.conf")
    chosen = conf.load([first, second])
    assert (chosen.policy.default, chosen.policy.nova_domains, chosen.attempts) == (
        Decision.KEEP,
        NovaDomains.OBSERVE,
        2,
    )
    assert chosen.files == (first, second)
    assert conf.load([second, first]).policy.default is Decision.ON


def test_folders_come_after_files_and_their_files_by_name(write: Write, tmp_path: Path) -> None:
    main = write("[policy]\ndefault = off\nnova_domains = observe\n")
    late, early = write("[policy]\ndefault = on\n", "d/b.conf"), write("[policy]\ndefault = keep\n", "d/a.conf")
    write("[nonsense\n", "d/README")
    chosen = conf.load([main], [str(tmp_path / "d")])
    assert (chosen.policy.default, chosen.policy.nova_domains) == (Decision.ON, NovaDomains.OBSERVE)
    assert chosen.files == (main, early, late)


def test_of_several_folders_the_last_counts(write: Write, tmp_path: Path) -> None:
    write("[policy]\ndefault = on\n", "d/z.conf")
    write("[policy]\ndefault = keep\n", "e/a.conf")
    folders = [str(tmp_path / "d"), str(tmp_path / "e")]
    assert conf.load([], folders).policy.default is Decision.KEEP
    assert conf.load([], folders[::-1]).policy.default is Decision.ON


def test_a_rule_may_be_listed_in_one_file_and_stand_in_others(write: Write) -> None:
    files = [
        write("[policy]\nrules = a\n", "1"),
        write("[rule:a]\npmu = on\nflavor = x\n", "2"),
        write("[rule:a]\nflavor = y\n", "3"),
    ]
    assert conf.load(files).policy.rules == (Rule("a", Decision.ON, flavor=("y",)),)


def test_an_empty_folder_means_the_defaults(tmp_path: Path) -> None:
    assert conf.load([], [str(tmp_path)]).policy == Policy()


def test_a_hidden_file_of_a_folder_is_not_read_and_not_named(write: Write, tmp_path: Path) -> None:
    """An editor's lock or back-up is no configuration; oslo.config passes over it as well."""
    write("[policy]\ndefault = on\n", "d/.old.conf")
    chosen = conf.load([], [str(tmp_path / "d")])
    assert (chosen.policy.default, chosen.files) == (Decision.OFF, ())


@pytest.mark.parametrize("name", ["d[1]", "d*", "d?", "d e", "ä"])
def test_a_folder_may_have_any_name(write: Write, tmp_path: Path, name: str) -> None:
    path = write("[policy]\ndefault = on\n", f"{name}/a.conf")
    chosen = conf.load([], [str(tmp_path / name)])
    assert (chosen.policy.default, chosen.files) == (Decision.ON, (path,))


def test_a_file_may_be_named_from_where_one_is(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("[policy]\ndefault = on\n", "d/a.conf")
    monkeypatch.chdir(tmp_path)
    assert conf.load(["d/a.conf"]).policy.default is Decision.ON
    assert conf.load([], ["d"]).policy.default is Decision.ON


def test_without_files_and_folders_the_default_ones_are_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "pmuconf.conf")
    monkeypatch.setattr(settings, "DEFAULT_DIR", tmp_path / "pmuconf.conf.d")
    assert conf.load().files == ()
    main = write("[policy]\ndefault = on\n")
    assert (conf.load().files, conf.load().policy.default) == ((main,), Decision.ON)
    more = write("[policy]\ndefault = keep\n", "pmuconf.conf.d/site.conf")
    assert (conf.load().files, conf.load().policy.default) == ((main, more), Decision.KEEP)
    other = write("[change]\nattempts = 1\n", "other")
    assert conf.load([other]).files == (other,)


# ---- every option is used ------------------------------------------------------------------------------------------

PACKAGE = Path(pmuconf.__file__).parent


def attributes(paths: Iterable[Path]) -> set[str]:
    """The names of all attributes that the code in these files reads."""
    trees = (ast.parse(path.read_text()) for path in paths)
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_every_option_becomes_a_setting() -> None:
    read = attributes([PACKAGE / "conf/settings.py"])
    names = {opt.dest for opts in options.GROUPS.values() for opt in opts}
    assert names - read == set()
    assert {opt.dest for opt in options.RULE_OPTS} - read == set(CRITERIA)  # which are read by name


def test_every_setting_is_used() -> None:
    """By a front end, not only where it is read."""
    users = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "conf"]
    names = {field.name for kind in (Settings, ServiceSettings) for field in fields(kind)}
    assert names - attributes(users) == {"mode", "rule_modes"}  # by mode_of() and enforces


def test_reading_leaves_the_working_folder_alone(write: Write, tmp_path: Path) -> None:
    path = write("[policy]\ndefault = on\n")
    before = sorted(os.listdir(tmp_path))
    conf.load([path])
    assert sorted(os.listdir(tmp_path)) == before
