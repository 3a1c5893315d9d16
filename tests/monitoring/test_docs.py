"""The commands and files of docs/monitoring.md, in a root of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pmuconf.conf import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/monitoring.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_is_of_a_kind_that_is_tested_here() -> None:
    assert set(re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)) == {"console", "ini", "yaml"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    """With systemctl replaced, which tells what it was asked for, and with /etc and /var moved."""
    for folder in ("bin", "etc/prometheus", "etc/grafana/provisioning/dashboards"):
        (tmp_path / folder).mkdir(parents=True)
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    systemctl.chmod(0o755)
    (config,) = blocks("yaml")
    (tmp_path / "etc/prometheus/prometheus.yml").write_text(config.replace("/etc/", f"{tmp_path}/etc/"))
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("# ")]
    assert len(commands) == len("".join(blocks("console")).splitlines()) > 5
    for command in commands:
        ran = subprocess.run(
            ["sh", "-c", re.sub(r"(?<![\w.])/(etc|var)/", rf"{tmp_path}/\1/", command)],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        if command.startswith("promtool"):
            assert "12 rules found" in ran.stdout
    assert (tmp_path / "asked").read_text().split() == ["reload", "prometheus", "restart", "grafana-server"]
    (provider,) = yaml.safe_load((tmp_path / "etc/grafana/provisioning/dashboards/pmuconf.yaml").read_text())[
        "providers"
    ]
    assert (Path(provider["options"]["path"]) / "pmuconf.json").is_file()


def test_the_configuration_is_taken(tmp_path: Path) -> None:
    ours = [block for block in blocks("ini") if block.startswith("[service]")]
    assert len(ours) == 2
    for number, block in enumerate(ours):
        (tmp_path / f"{number}.conf").write_text(block)
        service = load([str(tmp_path / f"{number}.conf")]).service
        for line in block.splitlines()[1:]:
            assert hasattr(service, line.split(" = ")[0]) or line == "listen_beyond_loopback = true"
    assert load([str(tmp_path / "0.conf")]).service.listen == ("0.0.0.0", 9754)


def test_the_drop_in_is_taken_by_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = (ROOT / "etc/systemd/pmuconf.service").read_text()
    (drop_in,) = [block for block in blocks("ini") if block.startswith("[Service]")]
    text = unit.replace("/usr/bin/pmuconf ", f"{shutil.which('true')} ") + drop_in
    (tmp_path / "pmuconf.service").write_text(text)
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "pmuconf.service")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in ran.stderr.splitlines() if "pmuconf.service" in line and "host-facts" not in line]
    assert (ran.returncode, ours) == (0, [])


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
