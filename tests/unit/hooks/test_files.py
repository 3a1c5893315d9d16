"""The files in contrib/hooks, run as processes as each manager runs them, by the contract that its source shows.

No package of Debian, PyPI or npm has the managers' own code that calls a hook.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.conftest import Outcome
from tests.unit.hooks.forms import CLOUDSTACK, KUBEVIRT, OPENNEBULA, POLICY, VDSM, Form, kubevirt_vmi
from tests.unit.hooks.test_hook import is_answer

TREE = Path(__file__).resolve().parents[3]
HOOKS = TREE / "contrib" / "hooks"
LIMIT = 128 * 1024
"""MAX_ARG_STRLEN of Linux: what one argument may have, its last NUL included."""
HANGS = "sleep 60"
FAILS = "echo rubbish; exit 1"
OURS = "ours"

Host = Callable[[str], "dict[str, str]"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The environment of a host with a command pmuconf: ours with the policy of the forms, a script, or none."""

    def made(script: str) -> dict[str, str]:
        (tmp_path / "policy.conf").write_text(POLICY)
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        if script == OURS:
            python = f"{sys.executable} -m pmuconf.commands.main"
            # As /etc/pmuconf/pmuconf.conf would be read: a configuration that is named stands before it.
            script = f'case "$*" in *--config-file*) exec {python} "$@";; esac\n'
            script += f'exec {python} --config-file {tmp_path}/policy.conf "$@"'
        if script:
            (place / "pmuconf").write_text(f"#!/bin/sh\n{script}\n")
            (place / "pmuconf").chmod(0o755)
        return {
            "PATH": f"{place}:/usr/bin:/bin",
            "PYTHONPATH": str(TREE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PMUCONF_SECONDS": "0.3" if script == HANGS else "60",
            "PMUCONF_LOG": str(tmp_path / "pmuconf.log"),
            "LANG": "C.UTF-8",
        }

    return made


def ended(command: Sequence[str | Path], environment: dict[str, str], stdin: bytes = b"") -> Outcome:
    process = subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=120, check=False)
    return Outcome(process.returncode, process.stdout.decode(), process.stderr.decode())


# ---- KubeVirt ------------------------------------------------------------------------------------------------------


def on_define_domain(script: Path, form: Form, environment: dict[str, str]) -> Outcome:
    """As runOnDefineDomain() of sidecar-shim: it checks that the VMI is JSON, and takes what the program writes."""
    json.loads(form.beside)
    return ended([script, "--vmi", form.beside, "--domain", form.xml], environment)


@pytest.mark.parametrize("form", KUBEVIRT, ids=lambda form: form.name)
def test_kubevirt(host: Host, form: Form) -> None:
    said = on_define_domain(HOOKS / "kubevirt" / "onDefineDomain", form, host(OURS))
    is_answer(Form(form.name, form.xml, form.state, "", form.beside), Outcome(said.status, "", "\n"), said.out.encode())


@pytest.mark.parametrize("script", ["", FAILS, HANGS])
def test_kubevirt_gets_its_own_domain_back_where_pmuconf_fails(host: Host, script: str) -> None:
    form = KUBEVIRT[0]
    for xml in (form.xml, form.xml + "\n\n", ""):
        said = on_define_domain(
            HOOKS / "kubevirt" / "onDefineDomain", Form("", xml, None, "", form.beside), host(script)
        )
        assert (said.status, said.out) == (0, xml)


def configmap() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((HOOKS / "kubevirt" / "configmap.yaml").read_text())
    return loaded


@pytest.mark.parametrize(
    ("labels", "state"), [({"pmu": "on"}, "on"), ({"pmu": "off"}, "off"), ({"profiling": "yes"}, "off")]
)
def test_the_policy_of_a_configmap(host: Host, tmp_path: Path, labels: dict[str, str], state: str) -> None:
    script = tmp_path / "onDefineDomain"
    script.write_text(configmap()["data"]["onDefineDomain"])
    script.chmod(0o755)
    form = Form("", KUBEVIRT[0].xml, state, "", kubevirt_vmi("web", labels=labels))
    said = on_define_domain(script, form, host(OURS))
    is_answer(form, Outcome(said.status, "", "\n"), said.out.encode())
    said = on_define_domain(script, form, host(FAILS))
    assert (said.status, said.out) == (0, form.xml)


def test_the_image_has_what_its_entry_point_and_the_configmap_name() -> None:
    """It is not built here: that needs KubeVirt's own image."""
    lines = (HOOKS / "kubevirt" / "Dockerfile").read_text().splitlines()
    assert "COPY --from=shim /sidecar-shim /sidecar-shim" in lines
    assert 'ENTRYPOINT ["/sidecar-shim"]' in lines
    assert "COPY --chmod=755 onDefineDomain /usr/bin/onDefineDomain" in lines
    assert '"hookPath": "/usr/bin/onDefineDomain"' in (HOOKS / "kubevirt" / "configmap.yaml").read_text()
    assert list(configmap()["data"]) == ["onDefineDomain"]


# ---- oVirt ---------------------------------------------------------------------------------------------------------


def before_vm_start(folder: Path, xml: bytes, environment: dict[str, str]) -> tuple[bytes, list[int]]:
    """As _runHooksDir() of VDSM: the executables by name, the domain in a file of theirs, 2 ends the row."""
    descriptor, name = tempfile.mkstemp()
    statuses = []
    try:
        os.write(descriptor, xml)
        os.close(descriptor)
        custom = {"profiling": "yes", "vmId": "989e8f8e-3f3e-4757-a305-4c4f3fa3ceee", "_hook_domxml": name}
        for script in sorted(path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)):
            process = subprocess.run(
                [script], env={**environment, **custom}, capture_output=True, timeout=120, check=False
            )
            statuses.append(process.returncode)
            if process.returncode == 2:
                break
        return Path(name).read_bytes(), statuses
    finally:
        os.unlink(name)


@pytest.mark.parametrize("form", VDSM, ids=lambda form: form.name)
def test_vdsm(host: Host, form: Form) -> None:
    xml, statuses = before_vm_start(HOOKS / "vdsm", form.xml.encode(), host(OURS))
    assert statuses == [0]
    is_answer(Form(form.name, form.xml, form.state, ""), Outcome(0, "", "\n"), xml)


@pytest.mark.parametrize("script", ["", FAILS, HANGS])
def test_vdsm_starts_the_vm_as_it_is_where_pmuconf_fails(host: Host, script: str) -> None:
    assert before_vm_start(HOOKS / "vdsm", VDSM[0].xml.encode(), host(script)) == (VDSM[0].xml.encode(), [0])


# ---- CloudStack ----------------------------------------------------------------------------------------------------


def transform(xml: str, environment: dict[str, str]) -> str:
    """The domain that CloudStack's agent goes on with: after another status than 0, its own."""
    said = ended([HOOKS / "cloudstack" / "libvirt-vm-xml-transformer.sh", "transform", xml], environment)
    return said.out if said.status == 0 else xml


@pytest.mark.parametrize("form", CLOUDSTACK, ids=lambda form: form.name)
def test_cloudstack(host: Host, form: Form) -> None:
    environment = host(OURS)
    xml = transform(form.xml, environment)
    is_answer(form, Outcome(0, "", Path(environment["PMUCONF_LOG"]).read_text()), xml.encode())


@pytest.mark.parametrize("script", ["", FAILS, HANGS])
def test_cloudstack_uses_its_own_domain_where_pmuconf_fails(host: Host, script: str) -> None:
    assert transform(CLOUDSTACK[1].xml, host(script)) == CLOUDSTACK[1].xml


def test_cloudstack_uses_its_own_domain_where_the_log_cannot_be_written(host: Host) -> None:
    assert transform(CLOUDSTACK[1].xml, {**host(OURS), "PMUCONF_LOG": "/no/such/folder/log"}) == CLOUDSTACK[1].xml


def test_cloudstack_passes_a_domain_as_large_as_an_argument_may_be(host: Host) -> None:
    xml = CLOUDSTACK[1].xml
    form = Form("", f"{xml[:-1]}<!--{'x' * (LIMIT - len(xml) - 7)}-->", "on", "on by perf")
    assert len(form.xml) == LIMIT - 1
    environment = host(OURS)
    changed = transform(form.xml, environment)
    is_answer(form, Outcome(0, "", Path(environment["PMUCONF_LOG"]).read_text()), changed.encode())
    with pytest.raises(OSError, match="Argument list too long"):
        transform(f"{form.xml} ", environment)


# ---- OpenNebula ----------------------------------------------------------------------------------------------------


def deploy(folder: Path, form: Form, environment: dict[str, str]) -> Outcome:
    """As one_vmm_exec: vm.xml first, then deploy with the domain on standard input; what OpenNebula's own one gets."""
    remotes, datastore = folder / "remotes" / "vmm" / "kvm", folder / "datastores" / "0" / "41"
    remotes.mkdir(parents=True)
    datastore.mkdir(parents=True)
    (remotes / "deploy").symlink_to(HOOKS / "opennebula" / "deploy")
    own = remotes / "deploy-opennebula"
    own.write_text('#!/bin/sh\n[ "$#" = 4 ] || exit 9\nexec cat\n')
    own.chmod(0o755)
    if form.beside:
        (datastore / "vm.xml").write_text(form.beside)
    return ended(
        [remotes / "deploy", datastore / "deployment.0", "host1", "41", "host1"], environment, form.xml.encode()
    )


@pytest.mark.parametrize("form", OPENNEBULA, ids=lambda form: form.name)
def test_opennebula(host: Host, tmp_path: Path, form: Form) -> None:
    said = deploy(tmp_path, form, host(OURS))
    is_answer(form, said, said.out.encode())


@pytest.mark.parametrize("script", ["", FAILS, HANGS])
def test_opennebula_deploys_its_own_domain_where_pmuconf_fails(host: Host, tmp_path: Path, script: str) -> None:
    said = deploy(tmp_path, OPENNEBULA[0], host(script))
    assert (said.status, said.out) == (0, OPENNEBULA[0].xml)


def test_what_opennebula_s_own_deploy_says_counts(host: Host, tmp_path: Path) -> None:
    deploy(tmp_path, OPENNEBULA[0], host(OURS))
    own = tmp_path / "remotes" / "vmm" / "kvm" / "deploy-opennebula"
    own.write_text("#!/bin/sh\ncat >/dev/null\necho no >&2\nexit 7\n")
    assert ended([own.parent / "deploy", "/d/deployment.0", "h", "41", "h"], host(OURS), b"<domain/>").status == 7
