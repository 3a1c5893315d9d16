"""How a module begins where this Python has no pmuconf."""

from __future__ import annotations

import json
import sys

import pytest
from ansible.module_utils import basic
from ansible.module_utils.common.text.converters import to_bytes
from ansible_collections.pmuconf.kvm.plugins.module_utils import front


@pytest.fixture
def respawned(monkeypatch):
    """No pmuconf here; the Pythons that the module was started again with."""
    pythons = []

    def respawn(python):
        pythons.append(python)
        sys.exit(0)

    monkeypatch.setitem(sys.modules, "pmuconf", None)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    monkeypatch.setattr(front, "respawn_module", respawn)
    return pythons


def begin(monkeypatch, **options):
    arguments = {"ANSIBLE_MODULE_ARGS": options}
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", to_bytes(json.dumps(arguments)))
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
    with pytest.raises(SystemExit):
        front.begin({})


def test_another_python_is_taken(monkeypatch, respawned):
    begin(monkeypatch, python=sys.executable)
    assert respawned == [sys.executable]


def test_or_what_is_missing_is_said(monkeypatch, capsys, respawned):
    begin(monkeypatch, python="/nonexistent/python")
    answer = json.loads(capsys.readouterr().out)
    assert respawned == []
    assert answer["failed"]
    assert answer["cause"] == "module-missing"
    assert "pmuconf[host]" in answer["msg"]
    assert "/nonexistent/python" in answer["msg"]


def test_no_third_start(monkeypatch, capsys, respawned):
    monkeypatch.setattr(front, "has_respawned", lambda: True)
    begin(monkeypatch, python=sys.executable)
    assert respawned == []
    assert json.loads(capsys.readouterr().out)["cause"] == "module-missing"
