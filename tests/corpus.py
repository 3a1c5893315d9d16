"""Domain XML of others, as much as there is, through the rewrite and through a real libvirt.

    python -m tests.corpus rewrite FOLDER ...    # each text to on, off and default, and every byte compared
    python -m tests.corpus apply FOLDER ...      # each that a libvirtd of its own takes: applied, rolled back, compared
    python -m tests.corpus pmu FOLDER ...        # the PMU that a guest gets, against libvirt's own command lines
    python -m tests.corpus native FOLDER ...     # the same by a libvirtd of its own: each text to on, off and default
    python -m tests.corpus redefine FOLDER ...   # what libvirt changes when it gets its own text back

FOLDER is any tree of files, such as the unpacked source of libvirt or virt-manager; domain XML that stands inside
other text files is found too, and equal texts count once. For pmu it is a source of libvirt, with its tests. The oracle
of a rewrite is tests/unit/oracle.py (expat, and a comparison of characters), that of a PMU is tests/argv.py. What is
not right is listed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
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
from pmuconf.domain.difference import differences
from pmuconf.domain.reading import read
from pmuconf.domain.rewriting import rewrite_bytes, rewrite_libvirt
from pmuconf.domain.xmltext import DomainXmlError
from tests import argv
from tests.functional.host import Host
from tests.functional.test_cpu import truth
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
                refused += not _settled(host, source, data)
                if not host.connection.isAlive():
                    _restarted(daemon, source)
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


def _taken(host: Host, source: str, data: bytes) -> libvirt.virDomain | None:
    """Define a domain under a name and a UUID of its own; None if libvirt does not take it."""
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
        with contextlib.suppress(libvirt.libvirtError):
            return host.connection.defineXML(kind)
    return None


def _settled(host: Host, source: str, data: bytes) -> bool:
    """Define a domain, and again, for libvirt's own first changes; whether libvirt takes it."""
    domain = _taken(host, source, data)
    if domain is None:
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


def pmus(folders: list[Path]) -> bool:
    """Compare with the command lines of libvirt's own tests; whether all was right."""
    right = True
    for folder in folders:
        compared = argv.compare_pairs(folder)
        kinds = argv.asked(compared, truth)
        _say(f"{folder}: {len(compared.kinds)} kinds of command lines, asked of a QEMU: {dict(kinds)}")
        right = _told(compared) and right
    return right


def native(folders: list[Path]) -> bool:
    """Compare with the command lines that a libvirtd makes of each text, to on, off and default."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # what it refuses is counted
    compared, given, refused = argv.Compared(), 0, Counter[str]()
    with Daemon() as daemon:
        connection = libvirt.open(daemon.uri)
        version = _version(connection)
        for source, data in texts(folders):
            given += 1
            for state in PmuState:
                try:
                    xml = rewrite_bytes(data, state, source=source).decode("utf-8", "replace")
                    line = connection.domainXMLToNative("qemu-argv", xml)
                except (DomainXmlError, libvirt.libvirtError) as error:
                    refused["pmuconf" if isinstance(error, DomainXmlError) else "libvirt"] += 1
                    if not connection.isAlive():
                        _restarted(daemon, source)
                        connection = libvirt.open(daemon.uri)
                        break
                    continue
                argv.compare(compared, f"{source}, {state.value}", read(xml), argv.words_of(line))
        connection.close()
    _say(f"{given} texts; refused by {dict(refused)}; {version}")
    return _told(compared)


def _told(compared: argv.Compared) -> bool:
    for (kind, line, answer), number in sorted(compared.counts.items()):
        _say(f"{kind}: by the command line {line}, by pmuconf {answer}: {number}")
    for one in compared.open:
        _say(f"OPEN: {one}")
    for one in compared.wrong:
        _say(f"WRONG: {one}")
    _say(f"{sum(compared.counts.values())} compared, {len(compared.open)} open, {len(compared.wrong)} wrong")
    return not compared.wrong


def redefined(folders: list[Path]) -> bool:
    """Give libvirt its own text of each domain back, twice; whether the second time changed nothing."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    counts, places, restless = Counter[str](), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="pmuconf-corpus-") as home, Daemon() as daemon:
        host = Host(daemon, Path(home))
        version = _version(host.connection)
        try:
            for source, data in texts(folders):
                forms = _forms(host, source, data)
                if not host.connection.isAlive():
                    _restarted(daemon, source)
                    host.reconnect()
                counts["refused" if not forms else "given back" if len(forms) == 3 else "own text refused"] += 1
                if len(forms) < 3:
                    continue
                moved = differences(forms[0], forms[1])
                places.update(moved)
                if forms[0] != forms[1]:
                    same_lines = sorted(forms[0].split("\n")) == sorted(forms[1].split("\n"))
                    counts["another order of the same lines" if same_lines else "other lines"] += 1
                if forms[1] != forms[2]:
                    restless += 1
                    _say(f"WRONG: {source}: another text at the second time too: {differences(forms[1], forms[2])}")
        finally:
            host.close()
    _say(version)
    for what, number in sorted(counts.items()):
        _say(f"{what}: {number}")
    for place, number in places.most_common():
        _say(f"another meaning: {place}: {number}")
    return not restless


def _restarted(daemon: Daemon, source: str) -> None:
    _say(f"{source}: libvirt ends")
    daemon.kill()
    daemon.start()


def _version(connection: libvirt.virConnect) -> str:
    number = connection.getLibVersion()
    return f"libvirt {number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _forms(host: Host, source: str, data: bytes) -> list[str]:
    """What libvirt makes of a text, then of its own text, and of that; fewer if it refuses one."""
    forms: list[str] = []
    domain = _taken(host, source, data)
    while domain is not None and len(forms) < 3:
        forms.append(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
        try:
            host.connection.defineXML(forms[-1])
        except libvirt.libvirtError as error:
            _say(f"{source}: libvirt refuses its own text: {error}")
            break
    if domain is not None:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    return forms


def _say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    kinds = {"rewrite": rewritten, "apply": applied, "pmu": pmus, "native": native, "redefine": redefined}
    parser.add_argument("what", choices=list(kinds))
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    sys.exit(0 if kinds[args.what](args.folders) else 1)


if __name__ == "__main__":
    main()
