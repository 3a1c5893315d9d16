"""A real OpenStack on one machine: Keystone, Placement, Glance, Neutron's API, Nova with nova-compute, libvirt, QEMU.

    python -m tests.openstack.lab up            root; the packages of bindep.txt, profile openstack
    python -m tests.openstack.lab run COMMAND   inside it
    python -m tests.openstack.lab down          ends it and removes all of it

All of it lives in namespaces of its own: processes, network (loopback alone) and mounts. What the services keep in
/etc, /var and /usr/local is a copy below LAB, bound over the machine's own, so nothing of the machine changes but for
the packages, and ending the first process ends everything.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

LAB: Final = Path(os.environ.get("PMUCONF_OPENSTACK_LAB", "/var/lib/pmuconf-openstack"))
PASSWORD: Final = "secret-of-the-lab"
SITE: Final = "/usr/local/lib/python3.11/dist-packages"
KEYSTONE: Final = "http://127.0.0.1:5000/v3"
CLOUD: Final = {
    "OS_AUTH_URL": KEYSTONE,
    "OS_USERNAME": "admin",
    "OS_PASSWORD": PASSWORD,
    "OS_PROJECT_NAME": "admin",
    "OS_USER_DOMAIN_ID": "default",
    "OS_PROJECT_DOMAIN_ID": "default",
    "OS_REGION_NAME": "lab",
    "OS_IDENTITY_API_VERSION": "3",
}
ENDPOINTS: Final = {
    "compute": ("nova", "http://127.0.0.1:8774/v2.1"),
    "placement": ("placement", "http://127.0.0.1:8778"),
    "image": ("glance", "http://127.0.0.1:9292"),
    "network": ("neutron", "http://127.0.0.1:9696"),
}

# Copied below LAB at first, and bound over the machine's own inside.
_COPIED = [*(f"/etc/{name}" for name in ("keystone", "glance", "placement", "neutron", "nova", "libvirt")), SITE]
_EMPTY = [
    *("/run", "/var/lib/mysql", "/var/lib/rabbitmq", "/var/log", "/var/lib/libvirt", "/var/cache/libvirt"),
    *("/var/lib/nova", "/var/lib/glance", "/var/lib/keystone", "/var/lib/placement", "/var/lib/neutron"),
]
_RABBIT = "rabbit://guest:guest@127.0.0.1:5672/"


def _database(name: str) -> str:
    return f"mysql+pymysql://lab:{PASSWORD}@127.0.0.1:3306/{name}?charset=utf8"


def _account(user: str) -> str:
    return (
        f"auth_type = password\nauth_url = {KEYSTONE}\nusername = {user}\npassword = {PASSWORD}\n"
        "project_name = service\nuser_domain_id = default\nproject_domain_id = default\nregion_name = lab\n"
    )


def _configuration() -> dict[str, str]:
    """The files below /etc."""
    nova = f"""\
[DEFAULT]
host = lab
my_ip = 127.0.0.1
state_path = /var/lib/nova
log_dir = /var/log/nova
transport_url = {_RABBIT}
allow_resize_to_same_host = true
reserved_host_memory_mb = 512
update_resources_interval = 10
shutdown_timeout = 10
[api]
auth_strategy = keystone
[api_database]
connection = {_database("nova_api")}
[database]
connection = {_database("nova")}
[keystone_authtoken]
www_authenticate_uri = {KEYSTONE}
{_account("nova")}
[glance]
api_servers = http://127.0.0.1:9292
[placement]
{_account("placement")}
[neutron]
{_account("neutron")}
[vnc]
enabled = false
[conductor]
workers = 1
[scheduler]
workers = 1
[oslo_concurrency]
lock_path = /run/nova
"""
    return {
        "nova/nova.conf": nova,
        "nova/nova-compute.conf": "[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n[libvirt]\nvirt_type = qemu\n",
        "keystone/keystone.conf": f"[database]\nconnection = {_database('keystone')}\n[token]\nprovider = fernet\n"
        "[cache]\nenabled = true\nbackend = dogpile.cache.memory\n",
        "placement/placement.conf": f"[placement_database]\nconnection = {_database('placement')}\n"
        f"[api]\nauth_strategy = keystone\n[keystone_authtoken]\n{_account('placement')}",
        "glance/glance-api.conf": f"[DEFAULT]\nworkers = 1\n[database]\nconnection = {_database('glance')}\n"
        "[glance_store]\nstores = file\ndefault_store = file\nfilesystem_store_datadir = /var/lib/glance/images\n"
        f"[paste_deploy]\nflavor = keystone\n[keystone_authtoken]\n{_account('glance')}",
        "neutron/neutron.conf": "[DEFAULT]\ncore_plugin = ml2\nservice_plugins = router,port_forwarding\n"
        f"auth_strategy = keystone\ntransport_url = {_RABBIT}\nbind_host = 127.0.0.1\n"
        "api_workers = 1\nrpc_workers = 0\n"
        "notify_nova_on_port_status_changes = false\nnotify_nova_on_port_data_changes = false\n"
        f"[database]\nconnection = {_database('neutron')}\n[oslo_concurrency]\nlock_path = /run/neutron\n"
        f"[keystone_authtoken]\n{_account('neutron')}",
        "neutron/plugins/ml2/ml2_conf.ini": "[ml2]\ntype_drivers = local\ntenant_network_types = local\n"
        "mechanism_drivers =\n[securitygroup]\nenable_security_group = false\n",
        "libvirt/libvirtd.conf": 'unix_sock_rw_perms = "0777"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n',
        "libvirt/qemu.conf": 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\n',
    }


def say(what: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def _first() -> int | None:
    """The pid of the lab's first process, None if it is down."""
    try:
        pid = int((LAB / "pid").read_text())
        return pid if b"pmuconf-openstack" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except (OSError, ValueError):
        return None


def inside(command: Sequence[str], user: str | None = None) -> list[str]:
    """The command as it is run inside the lab, by root or a service's user."""
    first = _first()
    if first is None:
        raise SystemExit("the lab is down: python -m tests.openstack.lab up")
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    return ["nsenter", "-t", str(first), "-m", "-n", "-p", *become, *command]


def call(*command: str, user: str | None = None, timeout: float = 300) -> str:
    """Run a command inside to its end; what it wrote.

    :raises subprocess.CalledProcessError: it failed; what it wrote is in the log folder.
    """
    done = subprocess.run(
        inside(command, user),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        cwd="/",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def start(name: str, *command: str, user: str | None = None, folder: str = "/", **environment: str) -> None:
    """Start a daemon inside; it writes to LAB/out/NAME."""
    with (LAB / "out" / name).open("ab") as out:
        process = subprocess.Popen(
            inside(["env", "-C", folder, *command], user),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **environment},
        )
    (LAB / "out" / f"{name}.pid").write_text(str(process.pid))


def until(what: str, ready: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until it is ready."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return
        time.sleep(0.25)
    raise SystemExit(f"{what} is not ready after {seconds:.0f} s; see {LAB}/out and {LAB}/root/var/log")


def succeeds(*command: str) -> bool:
    """Whether a command does, inside."""
    quiet = subprocess.DEVNULL
    return subprocess.run(inside(command), stdin=quiet, stdout=quiet, stderr=quiet, check=False).returncode == 0


def answers(port: int) -> bool:
    """Whether somebody listens on the port inside."""
    return succeeds("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")


def up() -> None:
    """Bring it all up, unless it is."""
    if _first() is not None and (LAB / "up").exists():
        return
    down()
    began = time.monotonic()
    say("namespaces")
    _lay_out()
    _namespaces()
    say("database, message queue, libvirt")
    _database_server()
    start(
        "rabbit",
        "/usr/lib/rabbitmq/bin/rabbitmq-server",
        user="rabbitmq",
        folder="/var/lib/rabbitmq",
        HOME="/var/lib/rabbitmq",
        RABBITMQ_NODENAME="lab@localhost",
        RABBITMQ_MNESIA_BASE="/var/lib/rabbitmq/mnesia",
        RABBITMQ_LOG_BASE="/var/log/rabbitmq",
        RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
        RABBITMQ_PID_FILE="/var/lib/rabbitmq/pid",
        RABBITMQ_CONFIG_FILE="/var/lib/rabbitmq/none",
        RABBITMQ_ENABLED_PLUGINS_FILE="/var/lib/rabbitmq/plugins",
    )
    call("virtlogd", "-d")
    call("libvirtd", "-d")
    say("database schemas")
    _schemas()
    say("identity, catalogue")
    for name, port, script in (
        ("keystone", 5000, "/usr/bin/keystone-wsgi-public"),
        ("placement", 8778, "/usr/bin/placement-api"),
        ("glance", 9292, "/usr/bin/glance-wsgi-api"),
    ):
        _web(name, port, script, 1)
    until("Keystone", lambda: answers(5000))
    until("RabbitMQ", lambda: answers(5672))
    _catalogue()
    say("network, compute")
    neutron = ("/etc/neutron/neutron.conf", "/etc/neutron/plugins/ml2/ml2_conf.ini")
    start("neutron", "neutron-server", *(f"--config-file={path}" for path in neutron), user="neutron")
    _web("nova", 8774, "/usr/bin/nova-api-wsgi", 2)
    start("conductor", "nova-conductor", user="nova")
    start("scheduler", "nova-scheduler", user="nova")
    for port in (8774, 8778, 9292, 9696):
        until(f"port {port}", lambda port=port: answers(port))  # type: ignore[misc]
    compute("start")
    until("the compute node", lambda: "1" in query("nova", "select count(*) from compute_nodes where deleted=0"))
    call("nova-manage", "cell_v2", "discover_hosts", user="nova")
    (LAB / "up").touch()
    say(f"up after {time.monotonic() - began:.0f} s")


def down() -> None:
    """End every process of the lab, and remove its files."""
    first = _first()
    if first is not None:
        os.kill(first, signal.SIGKILL)  # the first of a pid namespace: all others end with it
        while _first() is not None:
            time.sleep(0.1)
        time.sleep(0.5)
    shutil.rmtree(LAB, ignore_errors=True)


def compute(action: str) -> None:
    """Start, stop or restart nova-compute, with the arguments that Debian's init script gives it."""
    if action != "start":
        call("pkill", "-u", "nova", "-f", "/usr/bin/nova-compute", timeout=30)
        until("nova-compute's end", lambda: not succeeds("pgrep", "-u", "nova", "-f", "/usr/bin/nova-compute"), 60)
    if action != "stop":
        start(
            "compute",
            "/usr/bin/nova-compute",
            "--config-file=/etc/nova/nova.conf",
            "--config-file=/etc/nova/nova-compute.conf",
            "--log-file=/var/log/nova/nova-compute.log",
            user="nova",
        )


def query(database: str, text: str) -> str:
    """Ask the database server."""
    return call("mariadb", "--no-defaults", "-S", "/run/mysqld/lab.sock", "-N", database, "-e", text)


def _lay_out() -> None:
    (LAB / "out").mkdir(parents=True)
    for path in _COPIED:
        target = LAB / "root" / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(path).exists():
            subprocess.run(["cp", "-a", path, target], check=True)
        else:
            target.mkdir(parents=True)
    for path in _EMPTY:
        (LAB / "root" / path[1:]).mkdir(parents=True)
    for name, text in _configuration().items():
        target = LAB / "root/etc" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(text)
    own = [
        *((f"var/{kind}/{user}", user) for kind in ("lib", "log") for user in _USERS),
        *((f"run/{user}", user) for user in _USERS),
        *(("run/mysqld", "mysql"), ("var/lib/mysql", "mysql"), ("var/lib/rabbitmq", "rabbitmq")),
        *(("var/log/rabbitmq", "rabbitmq"), ("var/lib/nova/instances", "nova"), ("var/lib/glance/images", "glance")),
    ]
    for name, user in own:
        (LAB / "root" / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(LAB / "root" / name, user, user)
    for name in ("run/libvirt", "run/lock", "var/log/libvirt/qemu", "var/lib/libvirt/qemu", "var/lib/libvirt/images"):
        (LAB / "root" / name).mkdir(parents=True, exist_ok=True)
    for folder in (LAB, LAB / "root", LAB / "root/run", LAB / "root/run/lock", LAB / "root/var/lib/libvirt"):
        folder.chmod(0o755)


_USERS = ("keystone", "placement", "glance", "neutron", "nova")


def _namespaces() -> None:
    for path in (*_COPIED, *_EMPTY):
        Path(path).mkdir(parents=True, exist_ok=True)
    binds = " && ".join(f"mount --bind {LAB}/root{path} {path}" for path in (*_COPIED, *_EMPTY))
    # Waits for whatever is left to it, so that nothing stays a zombie.
    forever = "ip link set lo up || exit 1; while :; do sleep 3600 & wait $!; done"
    process = subprocess.Popen(
        [
            "unshare",
            "-m",
            "-n",
            "-p",
            "-i",
            "-u",
            "--fork",
            "--mount-proc",
            "--propagation",
            "private",
            "bash",
            "-c",
            f"hostname lab && {binds} && touch {LAB}/ready && {forever}",
            "pmuconf-openstack",
        ],
        stdin=subprocess.DEVNULL,
        stdout=(LAB / "out/first").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
    )
    end = time.monotonic() + 20
    while not (LAB / "ready").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (LAB / "pid").write_text(children[0])


def _database_server() -> None:
    call(
        "mariadb-install-db",
        "--no-defaults",
        "--user=mysql",
        "--datadir=/var/lib/mysql",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    )
    start(
        "mariadb",
        "mariadbd",
        "--no-defaults",
        "--datadir=/var/lib/mysql",
        "--socket=/run/mysqld/lab.sock",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
        "--max-connections=400",
        "--character-set-server=utf8mb3",
        "--pid-file=/run/mysqld/lab.pid",
        user="mysql",
    )
    until("MariaDB", lambda: succeeds("mariadb", "--no-defaults", "-S", "/run/mysqld/lab.sock", "-e", "select 1"))
    names = ("keystone", "glance", "placement", "neutron", "nova_api", "nova", "nova_cell0")
    made = "".join(f"create database {name};" for name in names)
    query(
        "mysql", f"{made} create user lab@'127.0.0.1' identified by '{PASSWORD}'; grant all on *.* to lab@'127.0.0.1'"
    )


def _schemas() -> None:
    keys = ("--keystone-user=keystone", "--keystone-group=keystone")
    for name in ("fernet-keys", "credential-keys"):
        (LAB / "root/etc/keystone" / name).mkdir(exist_ok=True)
        shutil.chown(LAB / "root/etc/keystone" / name, "keystone", "keystone")
    call("keystone-manage", "db_sync", user="keystone")
    call("keystone-manage", "fernet_setup", *keys, user="keystone")
    call("keystone-manage", "credential_setup", *keys, user="keystone")
    call(
        "keystone-manage",
        "bootstrap",
        f"--bootstrap-password={PASSWORD}",
        "--bootstrap-region-id=lab",
        *(f"--bootstrap-{kind}-url={KEYSTONE}" for kind in ("admin", "public", "internal")),
        user="keystone",
    )
    call("placement-manage", "db", "sync", user="placement")
    call("glance-manage", "db_sync", user="glance")
    call(
        "neutron-db-manage",
        "--config-file=/etc/neutron/neutron.conf",
        "--config-file=/etc/neutron/plugins/ml2/ml2_conf.ini",
        "upgrade",
        "heads",
        user="neutron",
    )
    call("nova-manage", "api_db", "sync", user="nova")
    call("nova-manage", "cell_v2", "map_cell0", f"--database_connection={_database('nova_cell0')}", user="nova")
    call("nova-manage", "cell_v2", "create_cell", "--name=cell1", user="nova")
    call("nova-manage", "db", "sync", user="nova")


def _web(name: str, port: int, script: str, processes: int) -> None:
    start(
        name,
        "uwsgi_python3",
        "--plugins=python3",
        f"--http-socket=127.0.0.1:{port}",
        f"--wsgi-file={script}",
        "--master",
        f"--processes={processes}",
        "--enable-threads",
        "--lazy-apps",
        "--buffer-size=65535",
        "--die-on-term",
        "--add-header=Connection: close",
        user=name,
        folder=f"/var/lib/{name}",
    )


def _catalogue() -> None:
    """Accounts and endpoints, by Keystone's API, from inside."""
    script = f"""
import openstack
identity = openstack.connect(**{_sdk()!r}).identity
service = identity.create_project(name='service', domain_id='default')
admin = identity.find_role('admin')
for kind, (name, url) in {dict(ENDPOINTS)!r}.items():
    user = identity.create_user(name=name, password={PASSWORD!r}, domain_id='default')
    identity.assign_project_role_to_user(service, user, admin)
    made = identity.create_service(name=name, type=kind)
    for interface in ('public', 'internal', 'admin'):
        identity.create_endpoint(service_id=made.id, interface=interface, region_id='lab', url=url)
"""
    call("/usr/bin/python3", "-c", script)


def _sdk() -> dict[str, str]:
    return {
        "auth_url": KEYSTONE,
        "username": "admin",
        "password": PASSWORD,
        "project_name": "admin",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "region_name": "lab",
    }


class Api:
    """The cloud's APIs as an administrator, from inside the lab."""

    def __init__(self) -> None:
        methods = {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}},
            },
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
        }
        request = urllib.request.Request(
            f"{KEYSTONE}/auth/tokens", json.dumps({"auth": methods}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            self.token = answer.headers["X-Subject-Token"]
            self.project = json.load(answer)["token"]["project"]["id"]

    def __call__(self, method: str, kind: str, path: str, body: Any = None, data: bytes | None = None) -> Any:
        """One request; the answer's JSON, None if it has none.

        :raises urllib.error.HTTPError: it was refused.
        """
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        headers |= {"OpenStack-API-Version": {"compute": "compute 2.93", "placement": "placement 1.39"}.get(kind, "")}
        if data is not None:
            headers["Content-Type"] = "application/octet-stream"
        elif body is not None:
            data = json.dumps(body).encode()
        request = urllib.request.Request(f"{ENDPOINTS[kind][1]}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    if arguments[:1] == ["up"]:
        up()
    elif arguments[:1] == ["down"]:
        down()
    elif arguments[:1] == ["run"] and len(arguments) > 1:
        up()
        return subprocess.run(
            inside(["env", *(f"{name}={value}" for name, value in CLOUD.items()), *arguments[1:]]), check=False
        ).returncode
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
