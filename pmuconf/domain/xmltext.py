"""XML text that becomes a tree of elements, or is refused with a cause.

Pure, and nothing outside the text is ever fetched. lxml (libxml2) says what a text means, as it does in libvirt.
"""

from __future__ import annotations

import codecs
import threading
from typing import Final
from xml.parsers import expat

from lxml import etree

from pmuconf.errors import PmuconfError

__all__ = ["MAX_XML_BYTES", "DomainXmlError", "encoding", "root_of"]

MAX_XML_BYTES: Final = 4 * 1024 * 1024

_ENCODING_ERRORS = frozenset(
    {
        etree.ErrorTypes.ERR_UNKNOWN_ENCODING,
        etree.ErrorTypes.ERR_UNSUPPORTED_ENCODING,
        etree.ErrorTypes.ERR_INVALID_ENCODING,
        etree.ErrorTypes.I18N_CONV_FAILED,
    }
)
# What libxml2 calls an error though the text is well-formed, and what libvirt takes, keeps in metadata and hands out
# (seen on 9.0): names of namespaces that are no URI, prefixes that nobody declared, and colons where none should be.
_TOLERATED = frozenset(
    {
        etree.ErrorTypes.WAR_NS_URI,
        etree.ErrorTypes.WAR_NS_URI_RELATIVE,
        etree.ErrorTypes.NS_ERR_XML_NAMESPACE,
        etree.ErrorTypes.NS_ERR_UNDEFINED_NAMESPACE,
        etree.ErrorTypes.NS_ERR_QNAME,
        etree.ErrorTypes.NS_ERR_ATTRIBUTE_REDEFINED,
        etree.ErrorTypes.NS_ERR_COLON,
    }
)
# The longer marks first: the one of UTF-16 begins the one of UTF-32.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNMARKED = ((b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))


class _Parsers(threading.local):
    def __init__(self) -> None:
        self.parsers: dict[tuple[bool, bool], etree.XMLParser] = {}


_parsers = _Parsers()


class DomainXmlError(PmuconfError):
    """The text is no domain XML that can be trusted; names the source and, where there is one, the line."""

    def __init__(self, problem: str, *, cause: str, source: str, line: int | None = None, hint: str = "") -> None:
        where = f"{source}:{line}" if line else source
        super().__init__(f"{where}: {problem}", cause=cause, hint=hint)


def root_of(xml: str | bytes, source: str, max_bytes: int = MAX_XML_BYTES) -> etree._Element:
    """Return the root element.

    Text is what it says, whatever encoding its declaration names; bytes are in the encoding that they declare.

    :raises DomainXmlError: xml-encoding, xml-too-large, xml-syntax, xml-doctype.
    """
    try:
        data = xml.encode("utf-8") if isinstance(xml, str) else xml
    except UnicodeEncodeError as error:
        raise DomainXmlError(f"text that is no Unicode: {error.reason}", cause="xml-encoding", source=source) from None
    if len(data) > max_bytes:
        raise DomainXmlError(
            f"{len(data)} bytes, more than the {max_bytes} that are read", cause="xml-too-large", source=source
        )

    # Nothing outside the document is ever fetched: lxml's own defaults once resolved external entities.
    text = isinstance(xml, str)
    strict = _parser(text=text, recover=False)
    try:
        try:
            root = etree.fromstring(data, strict)
        except etree.XMLSyntaxError:
            if not strict.error_log or any(entry.type not in _TOLERATED for entry in strict.error_log):
                raise
            root = etree.fromstring(data, _parser(text=text, recover=True))
            _refuse_malformed(data, "utf-8" if text else encoding(data, root)[1], source)
    except etree.XMLSyntaxError as error:
        # libxml2 2.9 knows no code of its own for bytes that are no UTF-8.
        wrong_encoding = error.code in _ENCODING_ERRORS or "not proper UTF-8" in str(error.msg)
        cause = "xml-encoding" if wrong_encoding else "xml-syntax"
        problem = " ".join(str(error.msg).split())
        raise DomainXmlError(f"not well-formed: {problem}", cause=cause, source=source, line=error.lineno) from None
    except (ValueError, LookupError) as error:
        raise DomainXmlError(f"not readable as XML: {error}", cause="xml-encoding", source=source) from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise DomainXmlError("has a DOCTYPE, which no libvirt XML has", cause="xml-doctype", source=source, line=1)
    return root


def encoding(xml: bytes, root: etree._Element) -> tuple[bytes, str]:
    """The byte order mark (or none) and the codec of bytes that root_of() could read."""
    for mark, codec in _MARKS:
        if xml.startswith(mark):
            return mark, codec
    for start, codec in _UNMARKED:
        if xml.startswith(start):
            return b"", codec
    return b"", root.getroottree().docinfo.encoding or "utf-8"


def _parser(*, text: bool, recover: bool) -> etree.XMLParser:
    """A parser of this thread's; to make one takes a quarter of the time of a domain."""
    parsers = _parsers.parsers
    if (text, recover) not in parsers:
        parsers[text, recover] = etree.XMLParser(
            encoding="utf-8" if text else None,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            strip_cdata=False,
            recover=recover,
        )
    return parsers[text, recover]


def _refuse_malformed(data: bytes, codec: str, source: str) -> None:
    """Hold what was read in spite of errors against a reader that knows no namespaces, and so has none of them.

    libxml2 keeps the first hundred errors of a text alone: behind a hundred prefixes, the tag that is not closed
    would go unseen.
    """
    reader = expat.ParserCreate("utf-8")
    text = data if codec == "utf-8" else data.decode(codec).lstrip("\ufeff").encode("utf-8")
    is_final = True  # no more text follows
    try:
        reader.Parse(text, is_final)
    except expat.ExpatError as error:
        problem = f"not well-formed: {expat.ErrorString(error.code)}"
        raise DomainXmlError(problem, cause="xml-syntax", source=source, line=error.lineno) from None
