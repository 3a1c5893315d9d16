"""The cloud's API: flavors, images and servers, through openstacksdk and its clouds.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pmuconf.change.journal import CLOUD
from pmuconf.errors import PmuconfError
from pmuconf.flavors.judge import Embedded, ExplicitImage, Flavor
from pmuconf.libraries import needed
from pmuconf.policy import FLAVOR_CHOICE, IMAGE_CHOICE, explicit_choice

__all__ = ["Cloud"]

# Servers have a copy of their flavor with its extra specs since 2.47, the list of flavors has extra specs since 2.61.
# Nova 26 has 2.93.
_MICROVERSION: Final = "2.61"
_SECONDS: Final = 60.0
"""How long an answer may take to begin, and to go on."""
_CAUSES: Final = {401: "openstack-auth", 403: "openstack-forbidden", 404: "openstack-not-found"}
_RETRIES: Final = {"connect_retries": 3, "status_code_retries": 3, "retriable_status_codes": [429, 500, 502, 503, 504]}
# These statuses say that nothing was changed. After any other error the flavor is read back instead of changed again.
_RETRIES_OF_WRITES: Final = {"connect_retries": 3, "status_code_retries": 3, "retriable_status_codes": [429, 503]}


class Cloud:
    """One region of a cloud, with an administrator's view."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, name: str | None) -> Iterator[Cloud]:
        """A connection to a cloud.

        :param name: of the cloud in clouds.yaml; None: the cloud that the OS_* variables name.
        :raises PmuconfError: openstack-missing, openstack-config, openstack-auth, openstack-unreachable.
        """
        with needed("openstack-missing"):
            import openstack
        with _translated():
            connection = openstack.connect(cloud=name, app_name="pmuconf")
        try:
            with _translated():
                if connection.session.timeout is None:  # clouds.yaml has no api_timeout: requests would wait for ever
                    connection.session.timeout = _SECONDS
                connection.session.get_token()  # not authorize(), which makes one exception of all that may fail
            yield cls(connection)
        finally:
            connection.close()

    @property
    def identity(self) -> str:
        """The name of this region in the journal, different from every other's."""
        region = self._connection.config.get_region_name() or ""
        return f"{CLOUD}{self._connection.auth.get('auth_url', '')}#{region}"

    def flavors(self) -> list[Flavor]:
        """Every flavor, also those of single projects."""
        entries = self._pages("compute", "/flavors/detail?is_public=None", "flavors")
        return [self._flavor(entry) for entry in entries]

    def flavor(self, number: str) -> Flavor | None:
        """One flavor as it is now; None if it is gone."""
        body = self._get("compute", f"/flavors/{number}", missing=True)
        return None if body is None else self._flavor(body["flavor"])

    def images(self) -> list[ExplicitImage]:
        """The images whose hw_pmu makes an explicit choice."""
        images = []
        for entry in self._pages("image", "/images", "images"):
            choice = explicit_choice(None, {IMAGE_CHOICE: str(entry[IMAGE_CHOICE])} if IMAGE_CHOICE in entry else None)
            if choice is not None:
                owner = entry.get("owner") if entry.get("visibility") == "private" else None
                images.append(ExplicitImage(entry["id"], entry.get("name") or entry["id"], choice[0], owner))
        return images

    def servers(self) -> Iterator[Embedded]:
        """The copy of the flavor in every server of every project."""
        for entry in self._pages("compute", "/servers/detail?all_tenants=1", "servers"):
            flavor, image = entry["flavor"], entry.get("image") or {}
            yield Embedded(flavor.get("original_name", ""), flavor.get("extra_specs") or {}, image.get("id"))

    def set_pmu(self, number: str, text: str) -> None:
        """Set hw:pmu of a flavor."""
        with _translated():
            self._send("POST", f"/flavors/{number}/os-extra_specs", json={"extra_specs": {FLAVOR_CHOICE: text}})

    def unset_pmu(self, number: str) -> None:
        """Remove hw:pmu of a flavor, if it is there."""
        with _translated():
            self._send("DELETE", f"/flavors/{number}/os-extra_specs/{FLAVOR_CHOICE}", missing=True)

    def _flavor(self, entry: Any) -> Flavor:
        projects = None
        if not entry.get("os-flavor-access:is_public", True):
            body = self._get("compute", f"/flavors/{entry['id']}/os-flavor-access", missing=True) or {}
            projects = frozenset(access["tenant_id"] for access in body.get("flavor_access", []))
        return Flavor(entry["id"], entry["name"], entry.get("extra_specs") or {}, projects)

    def _pages(self, service: str, path: str, key: str) -> Iterator[Any]:
        """All entries of a list: page by page, until a page is empty."""
        sign = "&" if "?" in path else "?"
        page = (self._get(service, path) or {}).get(key, [])
        while page:
            yield from page
            page = (self._get(service, f"{path}{sign}marker={page[-1]['id']}") or {}).get(key, [])

    def _get(self, service: str, path: str, *, missing: bool = False) -> Any:
        with _translated():
            more: dict[str, Any] = {"microversion": _MICROVERSION} if service == "compute" else {}
            answer = getattr(self._connection, service).get(path, **_RETRIES, **more, raise_exc=False)
            return None if missing and answer.status_code == 404 else _body(answer)

    def _send(self, method: str, path: str, *, missing: bool = False, **more: Any) -> None:
        answer = self._connection.compute.request(
            path, method, microversion=_MICROVERSION, raise_exc=False, **_RETRIES_OF_WRITES, **more
        )
        if not (missing and answer.status_code == 404):
            _body(answer)


def _body(answer: Any) -> Any:
    if answer.status_code < 400:
        return answer.json() if answer.content else None
    try:
        ((_, fault),) = answer.json().items()
        message = str(fault.get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    request = f"{answer.request.method} {answer.request.path_url.partition('?')[0]}"
    forbidden = answer.status_code == 403
    raise PmuconfError(
        f"{request}: HTTP {answer.status_code} {message}".rstrip(),
        cause=_CAUSES.get(answer.status_code, "openstack-error"),
        hint="An administrator's role is needed for flavors and for the servers of all projects" if forbidden else "",
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of openstacksdk and keystoneauth become errors with a cause."""
    from keystoneauth1 import exceptions as keystone
    from openstack import exceptions as sdk

    unreachable = (
        keystone.ConnectFailure,
        keystone.ConnectTimeout,
        keystone.DiscoveryFailure,
        keystone.EndpointNotFound,
    )
    refused = (keystone.Unauthorized, keystone.AuthorizationFailure)
    unconfigured = (sdk.ConfigException, keystone.MissingRequiredOptions)
    try:
        yield
    except (sdk.SDKException, keystone.ClientException) as error:
        # openstacksdk raises errors of its own in place of some of keystoneauth's, which are then their context.
        kinds = (error, error.__context__)
        if any(isinstance(kind, unreachable) for kind in kinds):
            raise PmuconfError(f"the cloud can't be reached: {error}", cause="openstack-unreachable") from None
        if any(isinstance(kind, refused) for kind in kinds):
            raise PmuconfError(f"the cloud refuses the credentials: {error}", cause="openstack-auth") from None
        if isinstance(error, unconfigured):
            raise PmuconfError(
                f"no cloud is configured: {error}",
                cause="openstack-config",
                hint="Name one of clouds.yaml with --os-cloud",
            ) from None
        raise PmuconfError(f"the cloud's API failed: {error}", cause="openstack-error") from None
