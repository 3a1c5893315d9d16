"""What a run refuses before it asks libvirt anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.change.run import Run
from pmuconf.conf import load
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError

CLOUD = "openstack:https://cloud.example.org:5000/v3#one"


@pytest.mark.parametrize("dry", [False, True])
def test_a_flavor_s_change_is_no_matter_of_libvirt_s(tmp_path: Path, dry: bool) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal.open(path, create=True) as journal:
        intent = Intent(ChangeKind.APPLY, CLOUD, "42", "m1 large", PmuState.DEFAULT, PmuState.OFF, "default", "")
        (number,) = journal.begin([intent])
        journal.settle([(number, ChangeStatus.DONE, "")])
    config = tmp_path / "pmuconf.conf"
    config.write_text(f"[journal]\npath = {path}\n[libvirt]\nuri = qemu+unix:///system?socket={tmp_path}/none\n")
    with pytest.raises(PmuconfError) as caught:
        Run(load([str(config)]), dry=dry).roll_back(None, change=number)
    assert caught.value.cause == "flavor-change"
    assert caught.value.hint == "Take it back with: pmuconf flavors rollback 'm1 large'"
