"""The plugin as a distribution in Nova's environment: what it loads, what it brings, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tests
from tests.samples import sample

ROOT = Path(tests.__file__).parents[1]
SAMPLE = ROOT / "etc/nova/pmuconf-nova.conf.sample"


def python(*arguments: str) -> str:
    """What a fresh interpreter of this environment writes, outside of the tree."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the check as docs/nova.md says for a container."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pmuconf_nova.check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def test_nova_finds_it_under_its_name_and_stays_nova() -> None:
    out = python(
        "-c", "import nova.conf, nova.virt.pmuconf as m; print(m.LibvirtDriver.__module__, nova.conf.__file__)"
    )
    driver, nova = out.split()[-2:]
    assert driver == "pmuconf_nova.driver"
    files = {str(path) for path in metadata.files("pmuconf-nova") or ()}
    assert not files & {"nova/__init__.py", "nova/virt/__init__.py"}
    assert "nova/virt/pmuconf/__init__.py" in files
    assert Path(nova).is_file()


def test_a_python_of_this_environment_starts_as_it_did_but_for_the_finder() -> None:
    statement = (
        "import sys; print(*sorted(name for name in sys.modules if name.partition('.')[0] in {'nova', 'eventlet', "
    )
    statement += "'pmuconf', 'pmuconf_nova', 'lxml', 'oslo_config', 'json'}))"
    assert python("-c", statement).split() == ["pmuconf_nova", "pmuconf_nova.finder"]


def test_the_finder_answers_for_the_driver_alone_and_only_if_nova_s_own_folders_do_not() -> None:
    out = python(
        "-c",
        "import sys; from pmuconf_nova.finder import _Finder as f\n"
        "print(*map(f.find_spec, ('nova', 'nova.virt', 'nova.virt.pmuconf.x')), sys.meta_path[-1] is f)\n"
        "print(f.find_spec('nova.virt.pmuconf').origin)",
    )
    first, origin = out.splitlines()
    assert first == "None None None True"
    assert Path(origin).is_file()


# The rooms of the policy and of the verdict on host facts. Of the host's room, only the reader of the facts and of the
# things that it compares them with, in /proc and /sys.
_ROOMS = ("conf", "domain", "drift", "errors", "fastpath", "files", "host", "hostfacts", "policy", "typed")
_HOST = (
    *("factsfile", "identity", "kvm", "names", "notes", "root"),
    *("vms", "vms.procdir", "vms.replaced", "vms.search"),
)


def test_loading_the_driver_loads_nothing_that_asks_libvirt_reads_code_or_reports() -> None:
    stock = set(python("-c", "import nova.virt.libvirt.driver, sys; print(*sys.modules)").split())
    modules = set(python("-c", "import nova.virt.pmuconf, sys; print(*sys.modules)").split()) - stock
    ours = {name for name in modules if name.partition(".")[0] == "pmuconf"}
    assert {name.split(".")[1] for name in ours - {"pmuconf"}} == set(_ROOMS)
    assert {name for name in ours if name.startswith("pmuconf.host.")} == {f"pmuconf.host.{name}" for name in _HOST}
    # And of others nothing that Nova's own driver does not load, but for small parts of the standard library.
    assert {name.partition(".")[0] for name in modules} <= {"nova", "pmuconf", "pmuconf_nova", "lxml", "fnmatch"}


def installed() -> set[str]:
    """Everything that pip sees in this environment, as NAME==VERSION."""
    return set(python("-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").split())


def test_it_brings_in_nothing_that_nova_has_not() -> None:
    """tests/nova/environment let pip resolve what the two require, with no index and Nova's packages held as they were.

    Nothing else came with them, and nothing changed its version.
    """
    before = set(Path(sys.prefix, "before").read_text().split())
    assert {line.partition("==")[0].replace("_", "-") for line in installed() - before} == {"pmuconf", "pmuconf-nova"}
    assert not before - installed()


def test_under_nova_26_s_own_constraints_it_asks_for_nothing_but_what_they_hold(tmp_path: Path) -> None:
    """By pip's resolver, from PyPI; Nova requires lxml and oslo.config itself."""
    requires = {Requirement(line).name for line in metadata.requires("nova") or () if "extra ==" not in line}
    if requires:  # which Debian's package does not say
        assert {"lxml", "oslo.config"} <= requires
    pins = Path(tests.__file__).parent / "nova/constraints-zed.txt"
    pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--dry-run", "--ignore-installed")
    # Of a Python of that time, for which there are wheels of all.
    python310 = ("--python-version=3.10", "--only-binary=:all:", "--target", str(tmp_path / "none"))
    wanted = [
        line
        for name in ("pmuconf", "pmuconf-nova")
        for line in metadata.requires(name) or ()
        if "extra ==" not in line and not line.startswith("pmuconf")
    ]
    assert {Requirement(line).name for line in wanted} == {"lxml", "oslo.config"}
    done = subprocess.run(
        [sys.executable, *pip, *python310, "-c", pins, "--report", tmp_path / "report", *wanted],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if "Temporary failure" in done.stderr or "Connection" in done.stderr:
        pytest.skip("PyPI can't be reached")
    assert done.returncode == 0, done.stderr
    held = dict(line.split("===") for line in pins.read_text().splitlines() if "===" in line)
    resolved = {
        one["metadata"]["name"]: one["metadata"]["version"]
        for one in json.loads((tmp_path / "report").read_text())["install"]
    }
    # Which OpenStack does not hold at a version: the lists of certificate authorities.
    assert set(resolved) - set(held) <= {"certifi"}
    assert {name: held[name] for name in resolved if name in held} == {
        name: version for name, version in resolved.items() if name in held
    }


def test_no_file_of_it_is_a_file_of_nova_s() -> None:
    nova = {str(path) for path in metadata.files("nova") or ()}
    ours = {str(path) for path in metadata.files("pmuconf-nova") or ()}
    assert ours
    assert not nova & ours


def test_uninstalling_leaves_nova_as_it_was(tmp_path: Path) -> None:
    """Installed beside a Nova of three files, and taken away again."""
    environment = tmp_path / "env"
    python("-m", "venv", "--without-pip", str(environment))
    asked: list[str | Path] = [
        environment / "bin/python",
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
    ]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (site / "nova/virt").mkdir(parents=True)
    for name in ("nova/__init__.py", "nova/virt/__init__.py", "nova/virt/driver.py"):
        (site / name).write_text("")
    before = sorted(str(path) for path in site.rglob("*"))
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", ROOT / "nova_hooks", source], check=True)
    pip = ("-m", "pip", f"--python={environment}/bin/python")
    python(*pip, "install", "-q", "--no-deps", str(source))
    after = sorted(str(path) for path in site.rglob("*"))
    assert any(path.endswith("nova/virt/pmuconf/__init__.py") for path in after)
    assert any(path.endswith("pmuconf-nova.pth") for path in after)
    subprocess.run([environment / "bin/python", "-c", "import nova.virt.driver"], check=True, cwd="/")
    python(*pip, "uninstall", "-q", "-y", "pmuconf-nova")
    left = sorted(str(path) for path in site.rglob("*") if "__pycache__" not in str(path))
    assert left == before


def test_both_distributions_have_one_version() -> None:
    assert metadata.version("pmuconf") == metadata.version("pmuconf-nova")


def test_the_sample_is_what_oslo_config_generator_makes_now() -> None:
    assert SAMPLE.read_text() == sample("pmuconf.nova"), "make sample-nova"


def test_nova_takes_every_line_of_the_sample(tmp_path: Path) -> None:
    (tmp_path / "nova.conf").write_text(re.sub(r"^#(\w+ =)", r"\1", SAMPLE.read_text(), flags=re.MULTILINE))
    out = python(
        "-c",
        "import sys, nova.conf; from pmuconf_nova import options; options.register(nova.conf.CONF)\n"
        "nova.conf.CONF([], default_config_files=sys.argv[1:])\n"
        "print(nova.conf.CONF.compute_driver, *nova.conf.CONF.pmuconf.values())",
        str(tmp_path / "nova.conf"),
    )
    assert out.split() == ["pmuconf.LibvirtDriver", "/etc/pmuconf/pmuconf.conf", "False", "no"]


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "policy.conf").write_text("[policy]\ndefault = maybe\n")
    (tmp_path / "nova.conf").write_text(
        f"[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n[pmuconf]\npolicy_file = {tmp_path}/policy.conf\n"
    )
    done = check(f"--config-file={tmp_path}/nova.conf")
    assert done.returncode == 2, done.stderr
    text = " ".join(done.stdout.replace("|", " ").split())
    assert "set compute_driver = pmuconf.LibvirtDriver in" in text
    assert "maybe" in text


@pytest.mark.parametrize("arguments", [("--config-file=/does/not/exist",), ("--no-such-option",)])
def test_the_check_fails_with_255_where_it_can_t_be_run(arguments: tuple[str, ...]) -> None:
    assert check(*arguments).returncode == 255


@pytest.mark.parametrize(
    ("command", "driver", "policy", "status", "features"),
    [
        ("module", "pmuconf.LibvirtDriver", "[policy]\ndefault = on\n", 0, '<pmu state="on"/></features>'),
        ("module", "pmuconf.LibvirtDriver", "[policy]\n[rule:unused]\npmu = on\n", 1, '<pmu state="off"/></features>'),
        ("pmuconf", "pmuconf.LibvirtDriver", "[policy]\n", 0, '<pmu state="off"/></features>'),
        ("pmuconf", "pmuconf.LibvirtDriver", "[policy]\ndefault = keep\n", 1, "writes no PMU state"),
        ("pmuconf", "libvirt.LibvirtDriver", "[policy]\n", 2, '<pmu state="off"/></features>'),
    ],
)
def test_the_check_s_exit_status_and_the_features_of_a_made_up_server(
    tmp_path: Path, command: str, driver: str, policy: str, status: int, features: str
) -> None:
    """Run in Nova's Python itself, and by the command pmuconf, which finds that Python by nova-compute's first line."""
    policy_file, nova_conf = tmp_path / "policy.conf", tmp_path / "nova.conf"
    policy_file.write_text(policy)
    nova_conf.write_text(f"[DEFAULT]\ncompute_driver = {driver}\n[pmuconf]\npolicy_file = {policy_file}\n")
    if command == "module":
        done = check(f"--config-file={nova_conf}", "--json")
    else:
        script = tmp_path / "bin/nova-compute"
        script.parent.mkdir()
        script.write_text(f"#!{sys.executable} -Wignore\nimport nova\n")
        script.chmod(0o755)
        pmuconf = [sys.executable, "-W", "ignore", "-m", "pmuconf.commands.main"]
        done = subprocess.run(
            [*pmuconf, "nova", "check", "--json", "--nova-config-file", str(nova_conf)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, "PATH": f"{script.parent}:/usr/bin:/bin"},
        )
    assert done.returncode == status, done.stderr
    checks = {entry["check"]: entry for entry in json.loads(done.stdout.splitlines()[-1])["checks"]}
    assert max(entry["result"] for entry in checks.values()) == status
    assert features in checks["A made-up server"]["details"]
    if status == 2:
        assert str(nova_conf) in checks["compute_driver"]["details"]
