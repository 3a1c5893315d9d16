"""pmuconf status on a real libvirt: the counts are those of the domains that are there."""

from __future__ import annotations

import json

from tests.functional.host import Host
from tests.support.domains import plain_domain


def test_status_counts_what_is_there_and_says_what_to_do(host: Host) -> None:
    host.define(plain_domain("drifting"), plain_domain("right", pmu="off"))
    ran = host.pmuconf("status", "--no-sample")
    assert ran.status == 2
    lines = ran.out.splitlines()
    assert "2 VMs, 0 running" in lines
    assert "off policy: 1 drift" in lines
    assert "1. 1 VM: pmuconf apply" in lines
    record = json.loads(host.pmuconf("status", "--no-sample", "-f", "json").out)
    assert (record["vms"], record["off_policy"], record["steps"]) == (
        2,
        {"drift": 1},
        [{"text": "pmuconf apply", "vms": 1}],
    )


def test_the_check_is_ok_once_that_was_done(host: Host) -> None:
    host.define(plain_domain("drifting"))
    assert host.pmuconf("status", "--check").out.startswith("PMUCONF CRITICAL - ")
    assert host.pmuconf("apply").status == 0
    ran = host.pmuconf("status", "--check")
    assert (ran.status, ran.out.count("\n")) == (0, 1)
    assert ran.out.startswith("PMUCONF OK - 0 of 0 running VMs on the fast path, 0 off policy | fast=0;;;0;0 ")
