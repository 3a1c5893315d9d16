"""A real Prometheus scrapes the service and evaluates the board's queries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pmuconf.conf import load
from pmuconf.errors import PmuconfError
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.functional.host import OFF, Host
from tests.functional.served import Served, service_settings, until
from tests.support.board import queries
from tests.support.domains import nova_domain, plain_domain
from tests.support.prometheus import Prometheus
from tests.support.sample import sample

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus")


def test_what_the_service_serves_is_scraped_whole_and_the_board_shows_it(host: Host, tmp_path: Path) -> None:
    host.configure(OFF + service_settings(mode="enforce"))
    hostile = 'a "b\\c'
    host.define(nova_domain("instance-1"), plain_domain(hostile))
    # Beside it, as another host, one with all that a report can have: this machine's kernel may say little.
    other = Outputs(Health())
    other.publish(sample(), load([os.devnull]).service)
    other._health.trouble("libvirt", PmuconfError("it broke", cause="libvirt-lost"))
    other._health.connected(yes=True)
    other.listen(("127.0.0.2", 0))
    assert other.address is not None
    address = f"{other.address[0]}:{other.address[1]}"
    with Served(host.policy) as served, Prometheus.of(tmp_path, {"pmuconf": [served.address(), address]}) as prometheus:
        served.until_passes(1)
        host.define(plain_domain("web"))
        until(lambda: len(prometheus.ask("up == 1")) == 2, "both to be scraped")
        changed = f'pmuconf_service_changes_total{{outcome="changed",instance="{served.address()}"}}'
        until(lambda: [one["value"][1] for one in prometheus.ask(changed)] == ["3"], "the changes to be scraped")
        names = f'pmuconf_vm_info{{instance="{served.address()}"}}'
        until(lambda: len(prometheus.ask(names)) == 3, "all three VMs")
        assert {one["metric"]["name"] for one in prometheus.ask(names)} == {"instance-1", "web", hostile}
        for query in queries():
            until(lambda: prometheus.ask(query.filled()) != [], query.panel)  # noqa: B023
        assert served.stop() == 0
    other.close()
