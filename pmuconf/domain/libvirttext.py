"""A text that libvirt wrote, parsed once, however much is asked of it. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property

from lxml import etree

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.domain.difference import differences, without_pmu_line
from pmuconf.domain.reading import definition_of, parse_libvirt
from pmuconf.domain.rewriting import rewrite_parsed

__all__ = ["LibvirtText"]

_SOURCE = "domain XML"


@dataclass(frozen=True)
class LibvirtText:
    """The XML of a domain as libvirt gave it on the way of a change: of any size, its limit was kept before."""

    xml: str

    @cached_property
    def definition(self) -> Domain:
        """What the text says about the PMU.

        :raises DomainXmlError: as domain.read().
        """
        return definition_of(self.xml, self._parsed, _SOURCE)

    def rewritten(self, state: PmuState) -> str:
        """The text with its PMU in this state and every other character as it was (see rewrite()).

        :raises DomainXmlError: as rewrite().
        """
        _ = self.definition, self._lines  # kept from here on: the rewrite edits the elements
        parsed = self._parsed
        del self.__dict__["_parsed"]
        return rewrite_parsed(self.xml, parsed, state, _SOURCE)

    def differences(self, other: LibvirtText) -> tuple[str, ...]:
        """The places in which two texts differ outside of the PMU, as pmuconf.domain.difference has them.

        Texts of which all lines but that of the PMU are the same need no other look.
        """
        if self._lines is not None and self._lines == other._lines:
            return ()
        return differences(self.xml, other.xml)

    @cached_property
    def _parsed(self) -> tuple[str, etree._Element]:
        return parse_libvirt(self.xml, _SOURCE, sys.maxsize)

    @cached_property
    def _lines(self) -> list[str] | None:
        """The lines but for that of the PMU; None if only a look at all elements tells where it stands."""
        part, root = self._parsed
        return None if part == self.xml else without_pmu_line(self.xml, root)
