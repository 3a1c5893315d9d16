"""The cloud's API: flavors, images and servers, through openstacksdk and its clouds.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from pmuconf.change.journal import CLOUD
from pmuconf.errors import PmuconfError
from pmuconf.flavors.judge import SPEC, Embedded, Flavor, Image
from pmuconf.policy import explicit_choice

__all__ = ["Cloud"]

# A server's copy of its flavor with extra specs: 2.47; extra specs in the list of flavors: 2.61. Nova 26 has 2.93.
_MICROVERSION: Final = "2.61"
_SECONDS: Final = 60.0  # without a byte of an answer
_RETRIES: Final = {"connect_retries": 3, "status_code_retries": 3, "retriable_status_codes": [429, 500, 502, 503, 504]}
# To change a flavor is not repeated after an answer that may come after it was done; the change is read back instead.
_RETRIES_OF_WRITES: Final = {"connect_retries": 3, "status_code_retries": 3, "retriable_status_codes": [429, 503]}


class Cloud:
    """One region of a cloud, as an administrator."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, name: str | None) -> Iterator[Cloud]:
        """Connect to a cloud of clouds.yaml, or to the one that OS_* variables name.

        :raises PmuconfError: openstack-missing, openstack-config, openstack-auth, openstack-unreachable.
        """
        try:
            import openstack
        except ImportError as error:
            raise PmuconfError(
                f"openstacksdk can't be loaded: {error}",
                cause="openstack-missing",
                hint="Install it with: pip install 'pmuconf[openstack]'",
            ) from None
        with _translated():
            connection = openstack.connect(cloud=name, app_name="pmuconf")
        try:
            with _translated():
                if connection.session.timeout is None:  # api_timeout of clouds.yaml; without it, it waits for ever
                    connection.session.timeout = _SECONDS
                connection.authorize()
            yield cls(connection)
        finally:
            connection.close()

    @property
    def identity(self) -> str:
        """What tells this region from every other, for the journal."""
        region = self._connection.config.get_region_name() or ""
        return f"{CLOUD}{self._connection.auth.get('auth_url', '')}#{region}"

    def flavors(self) -> list[Flavor]:
        """Every flavor, those of single projects too."""
        found = self._pages("compute", "/flavors/detail?is_public=None", "flavors", lambda last: str(last["id"]))
        return [self._flavor(entry) for entry in found]

    def flavor(self, number: str) -> Flavor | None:
        """One flavor as it is now, None if it is gone."""
        body = self._get("compute", f"/flavors/{number}", missing=True)
        return None if body is None else self._flavor(body["flavor"])

    def images(self) -> list[Image]:
        """The images that make an explicit choice, by hw_pmu."""
        images = []
        for entry in self._pages("image", "/images", "images", lambda last: str(last["id"])):
            choice = explicit_choice(None, {"hw_pmu": str(entry["hw_pmu"])} if "hw_pmu" in entry else {})
            if choice is not None:
                owner = entry.get("owner") if entry.get("visibility") == "private" else None
                images.append(Image(entry["id"], entry.get("name") or entry["id"], choice[0], owner))
        return images

    def servers(self) -> Iterator[Embedded]:
        """What every server of every project embeds."""
        for entry in self._pages("compute", "/servers/detail?all_tenants=1", "servers", lambda last: str(last["id"])):
            flavor, image = entry["flavor"], entry.get("image") or {}
            yield Embedded(flavor.get("original_name", ""), flavor.get("extra_specs") or {}, image.get("id"))

    def set_pmu(self, number: str, text: str) -> None:
        """Set hw:pmu of a flavor."""
        with _translated():
            self._send("POST", f"/flavors/{number}/os-extra_specs", json={"extra_specs": {SPEC: text}})

    def unset_pmu(self, number: str) -> None:
        """Take hw:pmu of a flavor away, if it is there."""
        with _translated():
            self._send("DELETE", f"/flavors/{number}/os-extra_specs/{SPEC}", missing=True)

    def _flavor(self, entry: Any) -> Flavor:
        projects = None
        if not entry.get("os-flavor-access:is_public", True):
            body = self._get("compute", f"/flavors/{entry['id']}/os-flavor-access", missing=True) or {}
            projects = frozenset(access["tenant_id"] for access in body.get("flavor_access", []))
        return Flavor(entry["id"], entry["name"], entry.get("extra_specs") or {}, projects)

    def _pages(self, service: str, path: str, key: str, marker: Callable[[Any], str]) -> Iterator[Any]:
        """All entries of a list: a page at a time, until one is empty."""
        sign = "&" if "?" in path else "?"
        page = (self._get(service, path) or {}).get(key, [])
        while page:
            yield from page
            page = (self._get(service, f"{path}{sign}marker={marker(page[-1])}") or {}).get(key, [])

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
    if answer.status_code >= 400:
        causes = {401: "openstack-auth", 403: "openstack-forbidden", 404: "openstack-not-found"}
        try:
            ((_, fault),) = answer.json().items()
            said = str(fault.get("message", ""))
        except (ValueError, AttributeError):
            said = ""
        what = f"{answer.request.method} {answer.request.path_url.partition('?')[0]}"
        raise PmuconfError(
            f"{what}: HTTP {answer.status_code} {said}".rstrip(),
            cause=causes.get(answer.status_code, "openstack-error"),
            hint="Flavors, and the servers of all projects, are an administrator's"
            if answer.status_code == 403
            else "",
        )
    return answer.json() if answer.content else None


@contextmanager
def _translated() -> Iterator[None]:
    from keystoneauth1 import exceptions as keystone
    from openstack import exceptions as sdk

    try:
        yield
    except (
        keystone.ConnectFailure,
        keystone.ConnectTimeout,
        keystone.DiscoveryFailure,
        keystone.EndpointNotFound,
    ) as error:
        raise PmuconfError(f"the cloud can't be reached: {error}", cause="openstack-unreachable") from None
    except (keystone.Unauthorized, keystone.AuthorizationFailure) as error:
        raise PmuconfError(f"the cloud refuses the credentials: {error}", cause="openstack-auth") from None
    except (sdk.ConfigException, keystone.MissingRequiredOptions) as error:
        raise PmuconfError(
            f"no cloud to ask: {error}", cause="openstack-config", hint="Name one of clouds.yaml with --os-cloud"
        ) from None
    except (sdk.SDKException, keystone.ClientException) as error:
        # openstacksdk makes an exception of its own of refused credentials, without the status, and of silence.
        cause = "openstack-auth" if "HTTP 401" in str(error) else "openstack-error"
        silent = isinstance(error.__context__, (keystone.ConnectFailure, keystone.ConnectTimeout))
        cause = "openstack-unreachable" if silent else cause
        raise PmuconfError(f"the cloud's API failed: {error}", cause=cause) from None
