"""The extra specs of flavors in a file, for an audit of domains whose metadata does not have them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pmuconf.domain.definition import UNKNOWN, Domain
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.flavors.judge import Flavor
from pmuconf.typed import JsonObject, TypedError, parse_object

__all__ = ["FlavorMap"]

_FORMAT: Final = "pmuconf-flavors"
_MAX_MAP: Final = 32 << 20
_VERSION: Final = 1


class FlavorMap:
    """The extra specs of flavors by name, for domains whose metadata has none (Nova before 32)."""

    def __init__(self, flavors: Iterable[Flavor]) -> None:
        self._by_name = {flavor.name: flavor for flavor in flavors}

    @property
    def flavors(self) -> list[Flavor]:
        """All of them."""
        return list(self._by_name.values())

    def dump(self) -> str:
        """The text of a file that load() reads."""
        flavors = [
            {"name": flavor.name, "id": flavor.id, "extra_specs": dict(flavor.extra_specs)} for flavor in self.flavors
        ]
        return json.dumps({"format": _FORMAT, "version": _VERSION, "flavors": flavors}, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> FlavorMap:
        """The map in a file.

        :raises PmuconfError: flavors-unreadable, flavors-broken.
        """
        try:
            document = parse_object(read_regular(path, _MAX_MAP))
            if document.get_str("format") != _FORMAT or document.get_int("version") != _VERSION:
                raise TypedError(f"it is no {_FORMAT} file of version {_VERSION}")
            return cls(map(_flavor, document.get_objects("flavors")))
        except OSError as error:
            raise PmuconfError(f"{path}: {error.strerror}", cause="flavors-unreadable") from None
        except TypedError as error:
            raise PmuconfError(
                f"{path} is no flavor map: {error}",
                cause="flavors-broken",
                hint="Write it again with: pmuconf flavors export --output FILE",
            ) from None

    def fill(self, domain: Domain) -> Domain:
        """The domain with the extra specs that its flavor has now.

        The same domain, if its metadata has extra specs, or if the map lacks its flavor.
        """
        nova = domain.nova
        if nova is None or nova.extra_specs is not UNKNOWN or nova.flavor not in self._by_name:
            return domain
        flavor = self._by_name[nova.flavor]
        return replace(domain, nova=replace(nova, flavor_id=flavor.id, extra_specs=flavor.extra_specs))


def _flavor(entry: JsonObject) -> Flavor:
    return Flavor(entry.get_str("id"), entry.get_str("name"), entry.get_str_map("extra_specs"))
