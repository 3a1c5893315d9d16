"""The plugin as a distribution in Nova's environment: what it loads, what it brings, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import tests

ROOT = Path(tests.__file__).parents[1]
SAMPLE = ROOT / "etc/nova/pmuconf-nova.conf.sample"


def python(*arguments: str) -> str:
    """What a fresh interpreter of this environment writes, outside of the tree."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_loading_the_driver_loads_nothing_of_libvirt_host_or_report() -> None:
    stock = set(python("-c", "import nova.virt.libvirt.driver, sys; print(*sys.modules)").split())
    modules = set(python("-c", "import nova.virt.pmuconf, sys; print(*sys.modules)").split()) - stock
    ours = {name for name in modules if name.partition(".")[0] == "pmuconf"}
    assert ours == {f"pmuconf{name}" for name in ("", ".conf", ".domain", ".errors", ".policy")}
    # And of others nothing that Nova's own driver does not load, but for small parts of the standard library.
    assert {name.partition(".")[0] for name in modules} <= {"nova", "pmuconf", "pmuconf_nova", "lxml", "fnmatch"}


def test_it_brings_in_nothing_that_nova_has_not(tmp_path: Path) -> None:
    """pip's own resolver, with what is installed here as the constraints, and no index to take anything from."""
    frozen = [f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions() if one.metadata["Name"]]
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(line for line in frozen if not line.startswith("pmuconf")))
    made = tmp_path / "wheels"
    for name, parts in {"p": ("pmuconf", "setup.cfg", "pyproject.toml", "README.md"), "n": ("nova_hooks",)}.items():
        (tmp_path / name).mkdir()
        for part in parts:
            subprocess.run(["cp", "-r", ROOT / part, tmp_path / name], check=True)
    for source in (tmp_path / "p", tmp_path / "n/nova_hooks"):
        python("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(made), str(source))
    out = python(
        *("-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index", "-q"),
        *("--report", str(tmp_path / "report"), "-c", str(constraints), *map(str, sorted(made.glob("*.whl")))),
    )
    assert out == ""
    # What they require is there in a version that does: pip would say so otherwise.
    for name in ("pmuconf", "pmuconf-nova"):
        wanted = [line.partition(";")[0] for line in metadata.requires(name) or () if "extra ==" not in line]
        out = python("-m", "pip", "install", "--dry-run", "--no-index", "-c", str(constraints), *wanted)
        assert "Would install" not in out
        assert out.count("Requirement already satisfied") >= len(wanted)


def test_uninstalling_leaves_nova_as_it_was(tmp_path: Path) -> None:
    """Installed beside a Nova of three files, and taken away again."""
    environment = tmp_path / "env"
    python("-m", "venv", "--without-pip", str(environment))
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(environment)}))
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
    made = python("-m", "oslo_config.generator", "--namespace", "pmuconf.nova", "--wrap-width", "100")
    assert SAMPLE.read_text() == made, "make sample-nova"


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "policy.conf").write_text("[policy]\ndefault = maybe\n")
    (tmp_path / "nova.conf").write_text(
        f"[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n[pmuconf]\npolicy_file = {tmp_path}/policy.conf\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pmuconf_nova.check", f"--config-file={tmp_path}/nova.conf"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 2, done.stderr
    text = " ".join(done.stdout.replace("|", " ").split())
    assert "set compute_driver = pmuconf.LibvirtDriver in" in text
    assert "maybe" in text


@pytest.mark.parametrize("arguments", [("--config-file=/does/not/exist",), ("--no-such-option",)])
def test_the_check_fails_with_255_where_it_can_t_be_run(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pmuconf_nova.check", *arguments],
        capture_output=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 255
