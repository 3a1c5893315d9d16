"""Domain XML of others, as much as there is, through the rewrite and through a real libvirt.

    python -m tests.corpus rewrite FOLDER ...    # each text to on, off and default, and every byte compared
    python -m tests.corpus apply FOLDER ...      # each that a libvirtd of its own takes: applied, rolled back, compared

FOLDER is any tree of files, such as the unpacked source of libvirt or virt-manager; domain XML that stands inside
other text files is found too, and equal texts count once. The oracle is tests/unit/oracle.py: expat, and a comparison
of characters. What is not right is listed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import codecs
import re
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

import libvirt

from pmuconf.domain.definition import PmuState
from pmuconf.domain.rewriting import rewrite_bytes, rewrite_libvirt
from pmuconf.domain.xmltext import DomainXmlError
from tests.functional.host import Host
from tests.support.daemon import Daemon
from tests.unit import oracle

_EMBEDDED = re.compile(rb"<domain(?:\s[^<>]*)?>.*?</domain>", re.DOTALL)
_DECLARED = re.compile(r"""^(<\?xml[^>]*?)\s+encoding\s*=\s*["']([^"']*)["']""")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LARGEST = 4 << 20


def texts(folders: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Every domain XML below the folders, once, and where it stands."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGEST:
                continue
            data = path.read_bytes()
            if b"<domain" not in data:
                continue
            alone = path.suffix == ".xml" and data.count(b"</domain>") == 1
            found = [data] if alone else _EMBEDDED.findall(data)
            for number, text in enumerate(found):
                if text not in seen:
                    seen.add(text)
                    yield f"{path}#{number}" if len(found) > 1 else str(path), text


def variants(data: bytes) -> Iterator[tuple[str, bytes, str]]:
    """The text as it is, and with other line ends and encodings; each with the codec that reads it."""
    codec = next((codec for mark, codec in _MARKS if data.startswith(mark)), None)
    declared = _DECLARED.match(data.decode("latin-1"))
    codec = codec or (declared[2] if declared else "utf-8")
    yield "as it is", data, codec
    if codec.lower() not in ("utf-8", "utf-8-sig"):
        return
    text = data.decode("utf-8-sig")
    yield "CRLF", text.replace("\r\n", "\n").replace("\n", "\r\n").encode(), "utf-8"
    bare = _DECLARED.sub(r"\1", text)
    yield "UTF-8 with a mark", codecs.BOM_UTF8 + bare.encode(), "utf-8-sig"
    yield "UTF-16", bare.encode("utf-16"), "utf-16"
    yield "UTF-32", bare.encode("utf-32"), "utf-32"


def rewritten(folders: list[Path]) -> bool:
    """Rewrite all of them; whether all was right."""
    right, refused, wrong, given_texts = Counter[str](), Counter[str](), 0, 0
    for source, data in texts(folders):
        given_texts += 1
        if given_texts % 500 == 0:
            _say(f"{given_texts} texts")
        for variant, given, codec in variants(data):
            for state in PmuState if variant in ("as it is", "CRLF") else (PmuState.OFF,):
                try:
                    after = rewrite_bytes(given, state, source=source)
                except DomainXmlError as error:
                    refused[f"{variant}: {error.cause}"] += 1
                    if error.cause == "xml-syntax" and _read_by_expat(given, codec):
                        wrong += 1
                        _say(f"WRONG: {source}: {variant}: refused, though expat reads it: {error}")
                    continue
                problem = _problem(given, after, state, codec)
                right[variant] += not problem
                if problem:
                    wrong += 1
                    _say(f"WRONG: {source}: {variant}, {state.value}: {problem}")
    for name, number in sorted(right.items()):
        _say(f"{name}: {number} rewrites right")
    for name, number in sorted(refused.items()):
        _say(f"refused, {name}: {number} rewrites")
    _say(f"{given_texts} texts: {sum(right.values())} rewrites right, {wrong} wrong")
    return not wrong


def _read_by_expat(data: bytes, codec: str) -> bool:
    try:
        oracle.events(data.decode(codec))
    except ExpatError:
        return False
    return True


def _problem(before: bytes, after: bytes, state: PmuState, codec: str) -> str:
    one, other = before.decode(codec), after.decode(codec)
    try:
        if not oracle.edited_alone(one, other, state.value):
            return "more than the PMU was edited"
        if oracle.pmu_state(other) != state.value:
            return "another state"
        if oracle.outside_pmu(one) != oracle.outside_pmu(other):
            return "another meaning"
    except ExpatError as error:
        return f"expat: {error}"
    if rewrite_bytes(after, state, source="again") is not after:
        return "not the same the second time"
    other = rewrite_libvirt(one, state)
    right = oracle.edited_alone(one, other, state.value) and oracle.pmu_state(other) == state.value
    return "" if right else "text of libvirt's becomes something else"


def applied(folders: list[Path]) -> bool:
    """Define all that a libvirtd takes, apply off and roll back; whether all was right."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # what it refuses is counted
    with tempfile.TemporaryDirectory(prefix="pmuconf-corpus-") as home, Daemon() as daemon:
        host = Host(daemon, Path(home))
        try:
            refused, given = 0, 0
            for source, data in texts(folders):
                given += 1
                refused += not _defined(host, source, data)
                if not host.connection.isAlive():
                    _say(f"{source}: libvirt ends")
                    daemon.kill()
                    daemon.start()
                    host.reconnect()
            before = host.xmls()
            _say(f"{given} texts, {refused} of them refused by libvirt; {len(before)} domains")
            for name, command in (("apply", ("apply", "--max-changes", "0")), ("rollback", ("rollback", "--all"))):
                ran = host.json(*command)
                outcomes = Counter((row["outcome"], row["cause"]) for row in ran.rows)
                _say(f"{name}: exit status {ran.status}; {dict(outcomes)}")
                for row in ran.rows:
                    if row["outcome"] not in ("changed", "undecided", "already"):
                        _say(f"{row['name']}: {row['outcome']} {row['cause']}: {row['note']}")
                after = host.xmls()
                differ = [one for one in before if _apart(before[one]) != _apart(after.get(one, ""))]
                states = Counter(oracle.pmu_state(xml) for xml in after.values())
                _say(
                    f"after {name}: {dict(states)}; {len(differ)} differ in more than the line of the PMU {differ[:9]}"
                )
            same = sum(before[one] == after.get(one) for one in before)
            _say(f"{same} of {len(before)} are as they were before, byte for byte")
            return same == len(before) and not differ
        finally:
            host.close()


def _defined(host: Host, source: str, data: bytes) -> bool:
    """Define a domain under a name and a UUID of its own; a second time, for libvirt's own first changes."""
    number = uuid.uuid5(uuid.NAMESPACE_URL, source)
    text = data.decode("utf-8", "replace")
    name = f"<name>{escape(Path(source).stem[:40])}-{number.hex[:8]}</name>"
    old = re.search(r"<uuid>([^<]+)</uuid>", text)
    if old is None:
        name += f"<uuid>{number}</uuid>"
    else:
        text = text.replace(old[1], str(number))  # it may stand in the system's information, too
    text = re.sub(r"<name>[^<]*</name>", lambda _: name, text, count=1)
    # Where there is no KVM, libvirt takes what is of KVM for QEMU.
    for kind in (text, re.sub(r"""(<domain[^>]*type=['"])kvm""", r"\1qemu", text, count=1)):
        try:
            domain = host.connection.defineXML(kind)
            break
        except libvirt.libvirtError:
            continue
    else:
        return False
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    try:
        for _ in range(2):
            host.connection.defineXML(domain.XMLDesc(flags))
    except libvirt.libvirtError as error:
        _say(f"{source}: libvirt refuses its own text: {error}")
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        return False
    return True


def _apart(xml: str) -> list[str]:
    """Its lines without that of the PMU, and without features that hold nothing else."""
    lines = [line for line in xml.split("\n") if not line.startswith("    <pmu state=")]
    text = "\n".join(lines).replace("  <features>\n  </features>\n", "")
    return text.split("\n")


def _say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=["rewrite", "apply"])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    right = rewritten(args.folders) if args.what == "rewrite" else applied(args.folders)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
