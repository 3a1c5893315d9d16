"""The decision, recorded in the instance, so that a host without pmuconf builds the same domain again.

In its own copy of the flavor (``hw:pmu``), or in its system metadata (``image_hw_pmu``), where Nova's libvirt
driver records such defaults itself (REGISTER_IMAGE_PROPERTY_DEFAULTS). A mark beside it says that it is a record and
no choice of anybody: it is lifted before a domain is generated, and written again after. The mark lies where whatever
replaces the record, a resize or a rebuild, replaces the mark too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pmuconf.domain.definition import PmuState

__all__ = ["Lifted", "lift", "without_record", "write"]

_FLAVOR, _FLAVOR_MARK = "hw:pmu", "pmuconf:recorded"
_IMAGE, _IMAGE_MARK = "image_hw_pmu", "image_pmuconf_recorded"
_TEXT = {PmuState.ON: "true", PmuState.OFF: "false"}


@dataclass
class Lifted:
    """A record that was taken out of an instance; the texts are None where there was none."""

    flavor: str | None = None
    image: str | None = None

    @property
    def state(self) -> PmuState | None:
        """The PMU state that was recorded, None if there was no record."""
        text = self.flavor if self.flavor is not None else self.image
        return next((state for state, word in _TEXT.items() if word == text), None)

    def put_back(self, instance: Any) -> None:
        """Leave the instance as it was found."""
        if self.flavor is not None:
            _write_flavor(instance, self.flavor)
        if self.image is not None:
            _write_image(instance, self.image)


def lift(instance: Any) -> Lifted:
    """Take our record out of the instance. A value that somebody changed since is that somebody's choice, and stays."""
    lifted = Lifted()
    specs = instance.flavor.extra_specs
    if _FLAVOR_MARK in specs:
        if specs[_FLAVOR_MARK] == specs.get(_FLAVOR):
            lifted.flavor = specs[_FLAVOR]
        drop = {_FLAVOR_MARK, _FLAVOR} if lifted.flavor is not None else {_FLAVOR_MARK}
        # A new mapping: the flavor does not see changes within the old one, and would not be saved.
        instance.flavor.extra_specs = {name: value for name, value in specs.items() if name not in drop}
    metadata = instance.system_metadata
    mark = metadata.get(_IMAGE_MARK)
    if mark is not None:
        if mark == metadata.get(_IMAGE):
            lifted.image = mark
            del metadata[_IMAGE]
        del metadata[_IMAGE_MARK]
    return lifted


def without_record(lifted: Lifted, image_meta: Any) -> Any:
    """The image's properties as they are without the record; the same object if there was none."""
    if lifted.image is None or "hw_pmu" not in image_meta.properties:
        return image_meta
    plain = image_meta.obj_clone()
    del plain.properties.hw_pmu
    return plain


def write(instance: Any, where: str, state: PmuState) -> None:
    """Record the state in the instance; Nova saves it when the operation ends."""
    if where == "flavor":
        _write_flavor(instance, _TEXT[state])
    else:
        _write_image(instance, _TEXT[state])


def _write_flavor(instance: Any, text: str) -> None:
    instance.flavor.extra_specs = {**instance.flavor.extra_specs, _FLAVOR: text, _FLAVOR_MARK: text}


def _write_image(instance: Any, text: str) -> None:
    instance.system_metadata[_IMAGE] = text
    instance.system_metadata[_IMAGE_MARK] = text
