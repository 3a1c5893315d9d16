"""The decision, recorded in the instance, so that a host without pmuconf builds the same domain again.

The record is in the instance's copy of its flavor (``hw:pmu``), or in its system metadata (``image_hw_pmu``). Nova's
libvirt driver itself records such defaults there (REGISTER_IMAGE_PROPERTY_DEFAULTS). A mark beside the record says that
nobody chose it: it is lifted before a domain is generated, and written again after. A resize or a rebuild that replaces
the record replaces its mark too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pmuconf.domain.definition import PmuState
from pmuconf.policy import CHOICE_TEXTS, FLAVOR_CHOICE, IMAGE_CHOICE

__all__ = ["Lifted", "lift", "without_record", "write"]

_FLAVOR_MARK = "pmuconf:recorded"
_IMAGE, _IMAGE_MARK = f"image_{IMAGE_CHOICE}", "image_pmuconf_recorded"


@dataclass
class Lifted:
    """A record that was taken out of an instance: the texts of flavor and image; None if there was none."""

    flavor: str | None = None
    image: str | None = None

    @property
    def state(self) -> PmuState | None:
        """The PMU state that was recorded; None if there was no record."""
        text = self.flavor if self.flavor is not None else self.image
        return next((state for state, word in CHOICE_TEXTS.items() if word == text), None)

    def put_back(self, instance: Any) -> None:
        """Write the record into the instance again."""
        if self.flavor is not None:
            _write_flavor(instance, self.flavor)
        if self.image is not None:
            _write_image(instance, self.image)


def lift(instance: Any) -> Lifted:
    """Take pmuconf's record out of the instance. A value that was changed since is somebody's choice, and stays."""
    lifted = Lifted()
    specs = instance.flavor.extra_specs
    if _FLAVOR_MARK in specs:
        if specs[_FLAVOR_MARK] == specs.get(FLAVOR_CHOICE):
            lifted.flavor = specs[FLAVOR_CHOICE]
        drop = {_FLAVOR_MARK, FLAVOR_CHOICE} if lifted.flavor is not None else {_FLAVOR_MARK}
        # A new mapping: Nova does not notice changes within the old one, and would not save the flavor.
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
    """The image's properties without the record; the same object if there was none."""
    if lifted.image is None or IMAGE_CHOICE not in image_meta.properties:
        return image_meta
    plain = image_meta.obj_clone()
    del plain.properties.hw_pmu
    return plain


def write(instance: Any, where: str, state: PmuState) -> None:
    """Record the state in the instance; Nova saves it when the operation ends."""
    if where == "flavor":
        _write_flavor(instance, CHOICE_TEXTS[state])
    else:
        _write_image(instance, CHOICE_TEXTS[state])


def _write_flavor(instance: Any, text: str) -> None:
    instance.flavor.extra_specs = {**instance.flavor.extra_specs, FLAVOR_CHOICE: text, _FLAVOR_MARK: text}


def _write_image(instance: Any, text: str) -> None:
    instance.system_metadata[_IMAGE] = text
    instance.system_metadata[_IMAGE_MARK] = text
