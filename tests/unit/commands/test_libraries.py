"""Commands where a library is not installed: one sentence, and the command that installs it for this Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pmuconf_nova
import pytest

from pmuconf.commands.names import COMMANDS
from tests.support.domains import plain_domain
from tests.unit.processes import ENVIRONMENT

EXTRAS = ("capstone", "elftools", "jinja2", "libvirt", "openstack", "prometheus_client", "tqdm", "zstandard")
"""What the extra of commands brings, but for cliff: a plain 'pip install pmuconf' with cliff has none of these."""
ARGUMENTS = {
    "apply": ["--dry-run"],
    "bench compare": ["/dev/null", "/dev/null"],
    "explain": ["web"],
    "fleet diff": ["/var/empty", "/var/empty"],
    "fleet plan": ["/var/empty"],
    "fleet report": ["/var/empty"],
    "flavors export": ["--output", "/dev/null"],
    "hook": ["vdsm"],
    "flavors rollback": ["--all"],
    "host facts": ["--output", "/dev/null"],
    "host judge": [sys.executable],
    "host record": ["/dev/null/record"],
    "policy explain": ["web"],
    "preflight qemu": [sys.executable],
    "qemu prove": [sys.executable],
    "rollback": ["--all"],
}


def without(*modules: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The command in a Python that can't import these modules."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({list(modules)!r}))\n"
        "from pmuconf.commands.main import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=ENVIRONMENT, stdin=subprocess.DEVNULL
    )


def is_a_sentence(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in done.stderr
    assert "halted" not in done.stderr
    assert "import" not in done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_without_any_of_its_libraries(tmp_path: Path, name: str) -> None:
    """Each either does what it can do without them, or names one of them with the code for that."""
    config = tmp_path / "pmuconf.conf"
    config.write_text(f"[journal]\npath = {tmp_path}/journal.sqlite\n")
    words = ["--config-file", str(config), *name.split(), *ARGUMENTS.get(name, [])]
    done = without(*EXTRAS, arguments=words)
    is_a_sentence(done)
    assert "(usage)" not in done.stderr
    if re.search(r"\((module|host|libvirt|openstack)-missing\)", done.stderr):
        assert any(f"the Python module {library} is" in done.stderr for library in EXTRAS), done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_help_is_there_without_any_library_of_the_host(name: str) -> None:
    done = without(*EXTRAS, arguments=[*name.split(), "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: pmuconf {name}")


@pytest.mark.parametrize(
    ("arguments", "module", "project", "cause"),
    [
        (["audit"], "libvirt", "libvirt-python", "libvirt-missing"),
        (["host"], "capstone", "capstone", "host-missing"),
        (["host", "judge", sys.executable], "elftools", "pyelftools", "module-missing"),
        (["serve"], "prometheus_client", "prometheus-client", "module-missing"),
        (["flavors", "audit"], "openstack", "openstacksdk", "openstack-missing"),
        (["audit"], "cliff", "cliff", "module-missing"),
    ],
)
def test_the_library_is_named_with_the_command_that_installs_it_here(
    arguments: list[str], module: str, project: str, cause: str
) -> None:
    done = without(module, arguments=arguments)
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.startswith(f"pmuconf: the Python module {module} is not installed ({cause}). Install it: ")
    installs = f"{sys.prefix}/bin/pip install {project}"
    if sys.prefix == sys.base_prefix:
        installs = f" install python3-{project.replace('libvirt-python', 'libvirt').lower()}"
    assert installs in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("form", "module"), [("html", "jinja2"), ("prometheus", "prometheus_client")])
def test_a_format_names_its_library_and_those_that_need_none(tmp_path: Path, form: str, module: str) -> None:
    file = tmp_path / "web.xml"
    file.write_text(plain_domain("web"))
    done = without(module, arguments=["report", "-f", form, "--xml", str(file)])
    assert done.returncode == 255
    assert f"the Python module {module} is not installed (module-missing)" in done.stderr
    assert done.stderr.endswith("-f json and csv need none\n")


def test_the_overview_needs_no_library_at_all() -> None:
    done = without("cliff", "lxml", "oslo_config", *EXTRAS, arguments=[])
    assert done.returncode == 255
    assert "See how a host stands" in done.stderr
    is_a_sentence(done)


def test_the_plugin_s_check_without_nova() -> None:
    folder = Path(pmuconf_nova.__file__).parents[1]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{folder}"}
    program = (
        "import sys, runpy\nsys.modules['nova'] = None\nrunpy.run_module('pmuconf_nova.check', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert (done.returncode, done.stdout) == (255, "")
    assert "nova-missing" in done.stderr
    assert "Run it with the Python that runs nova-compute" in done.stderr
    assert "Traceback" not in done.stderr
