"""What loads what: the pure core does no I/O, and Nova's process gets nothing of libvirt, SQLite or the commands."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import pmuconf
from tests.unit.processes import python

PURE = (
    *(
        "change/aftermath",
        "change/result",
        "hypervisor/history",
        "hooks/call",
        "fleet/outlook",
        "hostfacts",
        "mediated",
        "policy",
        "drift",
    ),
    *(
        "audit/processes",
        "audit/managers",
        "audit/remedy",
        "audit/starters",
        "audit/selection",
        "audit/vm",
        "report/screen",
        "wording",
        "fastpath/cases",
        "fastpath/guest",
        "fastpath/inkernel",
        "fastpath/verdict",
    ),
    *(
        "domain/cpu",
        "domain/definition",
        "domain/difference",
        "domain/libvirttext",
        "domain/managers",
        "domain/places",
        "domain/reading",
        "domain/rewriting",
        "domain/xmltext",
    ),
)
ALLOWED = {
    *(
        "__future__",
        "codecs",
        "collections",
        "collections.abc",
        "copy",
        "dataclasses",
        "enum",
        "fnmatch",
        "functools",
        "itertools",
        "re",
        "sys",
        "threading",
        "typing",
        "unicodedata",
        "uuid",
        "xml.parsers",
    ),
    *(
        "lxml",
        "pmuconf.audit.managers",
        "pmuconf.audit.remedy",
        "pmuconf.audit.starters",
        "pmuconf.change.result",
        "pmuconf.domain.cpu",
        "pmuconf.domain.difference",
        "pmuconf.domain.definition",
        "pmuconf.errors",
        "pmuconf.hostfacts",
        "pmuconf.fastpath.cases",
        "pmuconf.fastpath.guest",
        "pmuconf.fastpath.inkernel",
        "pmuconf.fastpath.verdict",
        "pmuconf.hypervisor.history",
        "pmuconf.policy",
        "pmuconf.wording",
        "pmuconf.audit.vm",
        "pmuconf.drift",
        "pmuconf.domain.libvirttext",
        "pmuconf.domain.managers",
        "pmuconf.domain.places",
        "pmuconf.domain.reading",
        "pmuconf.domain.rewriting",
        "pmuconf.domain.xmltext",
    ),
}


def source(module: str) -> ast.Module:
    return ast.parse((Path(pmuconf.__file__).parent / f"{module}.py").read_text())


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", PURE)
def test_the_pure_core_imports_nothing_that_does_io(module: str) -> None:
    assert imported(source(module)) <= ALLOWED


@pytest.mark.parametrize("module", PURE)
def test_nor_does_it_call_anything_that_does(module: str) -> None:
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(source(module))
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))
    }
    assert not calls & {"open", "print", "input", "exec", "eval", "__import__", "write", "parse", "import_module"}


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after this statement."""
    process = python(f"{statement}\nimport sys\nprint(*sys.modules)")
    out, err = process.communicate()
    assert err == ""
    return set(out.split())


def test_what_nova_loads_has_nothing_of_libvirt_sqlite_or_the_commands() -> None:
    modules = loaded("import pmuconf.policy, pmuconf.conf, pmuconf.domain.definition")
    assert "pmuconf.policy" in modules
    ours = {name for name in modules if name.startswith("pmuconf")}
    assert ours == {
        f"pmuconf{name}"
        for name in (
            *(
                "",
                ".conf",
                ".conf.files",
                ".conf.options",
                ".conf.settings",
                ".domain",
                ".domain.cpu",
                ".domain.definition",
                ".domain.xmltext",
                ".errors",
            ),
            *(".files", ".files.inputs", ".policy"),
        )
    }
    for unwanted in ("libvirt", "sqlite3", "cliff", "prettytable", "cmd2", "tqdm", "yaml.cyaml", "jinja2"):
        assert unwanted not in modules, unwanted


def test_what_the_plugin_says_of_a_host_loads_none_of_what_probes_one() -> None:
    """The reader of host facts is the library's own, and nova-compute starts no slower for it."""
    hooks = str(Path(pmuconf.__file__).parents[1] / "nova_hooks")
    modules = loaded(f"import sys\nsys.path.append({hooks!r})\nimport pmuconf_nova.trait")
    ours = {name for name in modules if name.startswith("pmuconf")}
    assert "pmuconf.host.factsfile" in ours
    assert not {one for one in ours if one.startswith(("pmuconf.host.guard", "pmuconf.host.prove"))}
    probes = ("code.elf", "code.live", "code.running", "code.unpack", "survey", "vms.installed", "vms.live", "vms.qemu")
    assert not ours & {f"pmuconf.host.{one}" for one in probes}
    assert not {one for one in ours if one.startswith(("pmuconf.report", "pmuconf.commands", "pmuconf.hyperv"))}
    for unwanted in ("libvirt", "capstone", "elftools", "cliff", "jinja2", "prometheus_client", "subprocess"):
        assert unwanted not in modules or (unwanted == "subprocess" and sys.version_info < (3, 10)), unwanted


def test_facts_from_a_file_need_nothing_that_probes_a_host() -> None:
    """An audit with --host-facts runs where capstone and elftools are not installed."""
    modules = loaded("import pmuconf.access, pmuconf.host.factsfile")
    assert not modules & {"libvirt", "capstone", "elftools", "cliff"}


@pytest.mark.parametrize("module", ["identity", "vms/replaced", "vms/search", "factsfile"])
def test_what_reads_host_facts_imports_only_what_is_light(module: str) -> None:
    """By its text, so that an import that comes late is seen too."""
    ours = {name for name in imported(source(f"host/{module}")) if name.startswith("pmuconf")}
    light = ("notes", "factsfile", "identity", "kvm", "root", "vms.procdir", "vms.replaced", "vms.search")
    pure = ("errors", "files.inputs", "files.place", "files.replacing", "hostfacts", "typed")
    assert ours <= {*(f"pmuconf.host.{one}" for one in light), *(f"pmuconf.{one}" for one in pure)}
    if module == "identity":
        assert ours == {"pmuconf.host.root", "pmuconf.host.notes"}


def test_what_decides_loads_lxml_and_nothing_else_from_outside() -> None:
    modules = loaded("import pmuconf.policy")
    unwanted = ["oslo_config", "libvirt", "socket", "sqlite3", "ssl", "logging"]
    if sys.version_info >= (3, 10):  # before, uuid itself loads it
        unwanted.append("subprocess")
    for one in unwanted:
        assert one not in modules, one


def test_reading_deciding_and_rewriting_opens_nothing() -> None:
    """Python tells of every file, socket and process that it opens; the pure core makes it tell nothing."""
    process = python(
        """
import sys
from pmuconf import policy
from pmuconf.domain import difference, reading, rewriting
from pmuconf.domain.definition import PmuState
xml = sys.stdin.read()
rules = (policy.Rule("a", policy.Decision.ON, flavor=("perf.*",)),)
def work():
    definition = reading.read(xml)
    policy.decide(policy.Policy(rules=rules), policy.Subject.of_domain(definition))
    policy.shadowed(rules)
    after = rewriting.rewrite(xml, PmuState.OFF)
    assert difference.same_but_pmu(xml, after)
    rewriting.rewrite_bytes(xml.encode(), PmuState.ON, source="file")
work()  # what Python itself loads late has been loaded now
told = []
sys.addaudithook(lambda event, values: told.append(event))
work()
told = [event for event in told if event.split(".")[0] in ("open", "os", "socket", "subprocess", "import", "shutil")]
print(told)
"""
    )
    xml = "<domain type='kvm'><name>web</name><os><type arch='x86_64'>hvm</type></os></domain>"
    out, err = process.communicate(xml)
    assert (out, err) == ("[]\n", "")


def test_an_audit_of_files_needs_neither_libvirt_nor_a_journal() -> None:
    modules = loaded("import pmuconf.audit.look, pmuconf.report.document")
    assert not modules & {"libvirt", "sqlite3", "pmuconf.hypervisor.hypervisor", "pmuconf.change.journal", "cliff"}


def test_the_version_needs_next_to_nothing() -> None:
    modules = loaded("import pmuconf.commands.main as m; m.main(['--version'])")
    assert not modules & {"libvirt", "lxml", "oslo_config", "cliff", "sqlite3"}
