"""The polkit rule of etc/ in a real polkitd on a bus of the test's own: what the user of the service may do."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

RULES: Final = Path(__file__).resolve().parents[2] / "etc/polkit-1/rules.d"
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ACTIONS: Final = next(  # those of the machine, or what tests/functional/polkit-actions fetched
    (
        folder
        for folder in (Path("/usr/share/polkit-1/actions"), _CACHE / "pmuconf-polkit")
        if (folder / "org.libvirt.api.policy").exists()
    ),
    None,
)
POLKITD: Final = next(filter(None, map(shutil.which, ("/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd"))), None)
UID: Final = 64999

pytestmark = pytest.mark.skipif(
    POLKITD is None or shutil.which("dbus-daemon") is None or ACTIONS is None or os.geteuid() != 0,
    reason="needs root, polkitd, dbus-daemon and libvirt's polkit actions: .ci/packages test fetches them",
)

_BUS: Final = """\
<busconfig><type>system</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy></busconfig>
"""

# polkitd alone sees our rules, a user pmuconf and libvirt's actions, in place of the machine's.
_ENTER: Final = """\
mount --bind "$1" /etc/polkit-1/rules.d
mount --bind "$2" /etc/passwd
mount --bind "$3" /usr/share/polkit-1/actions
exec "$4"
"""


class Polkit:
    """A polkitd on a bus of its own."""

    def __init__(self, bus: str) -> None:
        self._environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus, "LC_ALL": "C"}

    def allows(self, action: str, uid: int) -> bool:
        """Whether a process of this user's may do that, without being asked for a password."""
        with _process("sleep", "infinity", user=uid) as process:
            ran = subprocess.run(
                ["pkcheck", "--action-id", action, "--process", str(process.pid)],
                capture_output=True,
                text=True,
                timeout=30,
                env=self._environment,
            )
        assert ran.returncode in (0, 1, 2, 3), ran.stderr
        assert "not registered" not in ran.stderr
        return ran.returncode == 0


@contextmanager
def _process(*command: str, **how: object) -> Iterator[subprocess.Popen[str]]:
    """Runs until the block is left."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **how)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def polkit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Polkit]:
    folder = tmp_path_factory.mktemp("polkit")
    rules, passwd = folder / "rules", folder / "passwd"
    shutil.copytree(RULES, rules)
    rules.chmod(0o755)
    passwd.write_text(f"{Path('/etc/passwd').read_text()}pmuconf:x:{UID}:{UID}::/:/usr/sbin/nologin\n")
    (folder / "bus.conf").write_text(_BUS)
    with ExitStack() as stack:
        daemon = ("dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--print-address")
        bus = stack.enter_context(_process(*daemon, stdout=subprocess.PIPE))
        address = bus.stdout.readline().strip()  # type: ignore[union-attr]
        assert address
        inside = ("unshare", "--mount", "--propagation", "private", "sh", "-euc", _ENTER, "sh")
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address}
        polkitd = _process(*inside, str(rules), str(passwd), str(ACTIONS), str(POLKITD), env=environment)
        stack.enter_context(polkitd)
        deadline = time.monotonic() + 60
        while _asked(environment).returncode:
            assert time.monotonic() < deadline, _asked(environment).stderr
            time.sleep(0.1)
        yield Polkit(address)


def _asked(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Whether polkitd answers. What it says by itself when it does differs from version to version."""
    return subprocess.run(["pkaction"], capture_output=True, text=True, timeout=30, env=environment)


@pytest.mark.parametrize(
    "action",
    [
        "org.libvirt.unix.monitor",
        "org.libvirt.unix.manage",
        *(f"org.libvirt.api.connect.{what}" for what in ("getattr", "read", "search-domains")),
        *(f"org.libvirt.api.domain.{what}" for what in ("getattr", "read", "read-secure", "write", "save")),
    ],
)
def test_the_user_of_the_service_may_read_and_define(polkit: Polkit, action: str) -> None:
    assert polkit.allows(action, UID)


@pytest.mark.parametrize("what", ["start", "stop", "delete", "init-control", "migrate", "inject-nmi"])
def test_with_libvirts_own_access_control_it_may_do_no_more(polkit: Polkit, what: str) -> None:
    assert not polkit.allows(f"org.libvirt.api.domain.{what}", UID)


def test_nobody_else_may_by_it(polkit: Polkit) -> None:
    assert not polkit.allows("org.libvirt.unix.manage", UID + 1)
