"""Hypothesis strategies for domain XML as odd as XML allows it: what the property tests of domain.py feed on."""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from hypothesis import strategies as st

__all__ = ["PMU_STATES", "any_bytes", "any_text", "domain_texts", "legal_text"]

PMU_STATES: Final = ("on", "off", "default")

_SPACE = st.sampled_from(["", "\n", "\n  ", " ", "\t", "\r\n", "\n\n    "])
_NAMES = st.sampled_from(["a", "acpi", "pmu", "features", "domain", "state", "Pmu", "ä", "x-1.y_z", "xml:lang", "q:a"])

# What XML 1.0 allows, with a liking for what has to be escaped.
legal_text: Final = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff") | st.sampled_from("\t\n <>&'\"]"),
    max_size=12,
)


def _in_attribute(text: str) -> st.SearchStrategy[str]:
    double = escape(text, {'"': "&quot;", "\n": "&#10;", "\t": "&#x9;"})
    single = escape(text, {"'": "&apos;"})
    return st.sampled_from([f'"{double}"', f"'{single}'", '"' + "".join(f"&#{ord(one)};" for one in text) + '"'])


def _in_element(text: str) -> st.SearchStrategy[str]:
    cdata = text.replace("]]>", "]] >")
    return st.sampled_from([escape(text), f"<![CDATA[{cdata}]]>", "".join(f"&#x{ord(one):X};" for one in text)])


_ATTRIBUTE_VALUES = legal_text.flatmap(_in_attribute)
_TEXTS = legal_text.flatmap(_in_element)
_COMMENTS = st.sampled_from(["<!-- <pmu state='on'/> -->", "<!---->", "<?pi <pmu/> ?>", "<?features?>"])
_Q = ' xmlns:q="urn:q"'


@st.composite
def _elements(draw: st.DrawFn, inside: st.SearchStrategy[str]) -> str:
    name = draw(_NAMES.filter(lambda name: not name.startswith("xml:")))
    attributes = draw(st.dictionaries(_NAMES, _ATTRIBUTE_VALUES, max_size=3))
    written = "".join(f"{draw(_SPACE) or ' '}{key}={value}" for key, value in attributes.items())
    content = draw(inside)
    return f"<{name}{_Q}{written}>{content}</{name}>" if content else f"<{name}{_Q}{written}{draw(_SPACE)}/>"


_ANYTHING = st.recursive(
    _TEXTS | _COMMENTS, lambda inside: _elements(st.lists(inside, max_size=3).map("".join)), max_leaves=4
)
_NESTED = _elements(_ANYTHING)
_PMUS = st.sampled_from(["<pmu state='on'/>", '<pmu state="off"/>', "<pmu/>", "<pmu  state = 'off' ></pmu>"])
_PMU_IN_FULL = _ANYTHING.map(lambda inside: f"<pmu a='1' state='off'>{inside}</pmu>")
_FEATURE = st.one_of(  # as often a pmu as not
    *(_PMUS, _PMUS, _PMUS, _PMU_IN_FULL, _PMU_IN_FULL),
    *(_COMMENTS, _TEXTS, _TEXTS, _SPACE, st.sampled_from(["<acpi/>", "<q:pmu xmlns:q='urn:q'/>"])),
)


@st.composite
def _features(draw: st.DrawFn) -> str:
    inside = "".join(draw(_FEATURE) for _ in range(draw(st.sampled_from([1, 2, 3, 5]))))
    return draw(st.sampled_from([f"<features>{inside}</features>"] * 4 + ["<features/>"]))


_CHILDREN = st.one_of(
    _NESTED.filter(lambda text: not text.startswith(("<features", "<domain"))),
    _COMMENTS,
    st.sampled_from(["<cpu mode='host-model'/>", "<devices>\n  <disk/>\n</devices>", "<clock offset='utc'/>"]),
    st.just("<qemu:commandline xmlns:qemu='urn:qemu'><qemu:arg value='-pmu'/></qemu:commandline>"),
    st.just("<metadata><n:x xmlns:n='urn:n'><features><pmu state='on'/></features></n:x></metadata>"),
    st.just("<metadata><x xmlns='relative'/></metadata>"),
)


@st.composite
def domain_texts(draw: st.DrawFn) -> str:
    """The text of a well-formed domain with a name; it may have no, one or several features and pmu elements."""
    children = draw(st.lists(_CHILDREN, max_size=4))
    features = [draw(_features()) for _ in range(draw(st.sampled_from([1, 1, 2, 0])))]
    for one in ["<name>guest</name>", *features]:
        children.insert(draw(st.integers(0, len(children))), one)
    space = draw(_SPACE)
    inside = "".join(space + child for child in children)
    before, after = draw(st.lists(_COMMENTS | _SPACE, max_size=2)), draw(st.lists(_COMMENTS | _SPACE, max_size=2))
    kind = draw(st.sampled_from(["", " type='kvm'", ' id="7"  type="qemu"', " xmlns:x='urn:x' x:y='é'"]))
    return f"{''.join(before)}<domain{kind}>{inside}{draw(_SPACE)}</domain>{''.join(after)}"


_PIECES = st.sampled_from(
    [
        *("<domain>", "</domain>", "<name>", "</name>", "<features>", "</features>", "<pmu", "/>", ">", "<", "state="),
        *("'on'", "'off'", "'", '"', "&", "&amp;", "&#0;", "&x;", "<!DOCTYPE domain [", "]>", "<!ENTITY x 'y'>", "-->"),
        *("<!--", "<![CDATA[", "]]>", "<?xml version='1.0'?>", "<?xml version='1.0' encoding='utf-16'?>", "xmlns=''"),
        *("<domainsnapshot>", "</domainsnapshot>", "\x00", "\ufeff", "\ud800", "\x1b", "é", " ", "\n"),
    ]
)


@st.composite
def any_text(draw: st.DrawFn) -> str:
    """Any text at all, most of it nearly a domain: pieces of XML, or a domain with a part cut out or put in."""
    if draw(st.booleans()):
        return draw(st.text(max_size=40) | st.lists(_PIECES, max_size=12).map("".join))
    text = draw(domain_texts())
    at = draw(st.integers(0, len(text)))
    cut = draw(st.integers(0, 12))
    return text[:at] + draw(_PIECES | st.just("")) + text[at + cut :]


@st.composite
def any_bytes(draw: st.DrawFn) -> bytes:
    """Any bytes at all, most of them nearly a domain in some encoding."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "utf-7", "utf-32"]))
    data = draw(any_text()).encode(encoding, "replace")
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
