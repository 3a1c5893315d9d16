"""The rooms of the house, measured from the imports and definitions of the code; and the pictures of them.

A room is a file of the package, or a folder of it; an arrow is an import. A room stands on a floor above all that it
imports.

    python -m tests.house docs                write docs/architecture.svg and docs/architecture-host.svg (Graphviz)
    python -m tests.house --measure [TREE]    what a review of the code's writing counts, of this tree or another
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["House", "Module", "circles", "dot", "main", "modules", "vague_names"]

TREE: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ("pmuconf", "nova_hooks/pmuconf_nova")
VAGUE: Final = frozenset({"found", "held", "made", "one", "said", "told"})
_PRONOUNS: Final = frozenset(
    {
        *(
            "both",
            "he",
            "her",
            "him",
            "his",
            "it",
            "its",
            "none",
            "one",
            "ones",
            "other",
            "others",
            "she",
            "that",
            "their",
        ),
        *("them", "these", "they", "this", "those", "what", "which", "who", "whom", "whose"),
    }
)
_MANY_LINES: Final = 400
_MANY_PRONOUNS: Final = 4


@dataclass(frozen=True)
class Module:
    """One file: its dotted name below pmuconf, its lines, and the modules that it imports, late ones included."""

    name: str
    lines: int
    imports: frozenset[str]


def modules(tree: Path = TREE) -> list[Module]:
    """The modules of the package that define something."""
    package = tree / "pmuconf"
    paths = {_dotted(path, package): path for path in package.rglob("*.py") if path.name != "__init__.py"}
    return [
        Module(
            name, len(path.read_text(encoding="utf-8").splitlines()), frozenset(_imports(path, paths.keys())) - {name}
        )
        for name, path in sorted(paths.items())
    ]


def _dotted(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def _imports(path: Path, known: Iterable[str]) -> Iterator[str]:
    known = set(known)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from ({name.removeprefix("pmuconf.") for name in names if name.startswith("pmuconf.")} & known)


class House:
    """Rooms, their lines, and the arrows between them.

    :param within: the folder whose inside is shown; empty for the whole package. A folder in it is one room.
    """

    def __init__(self, listed: Sequence[Module], within: str = "") -> None:
        prefix = f"{within}." if within else ""
        room_of = {
            module.name: module.name.removeprefix(prefix).split(".")[0]
            for module in listed
            if module.name.startswith(prefix)
        }
        folders = {name.removeprefix(prefix).split(".")[0] for name in room_of if "." in name.removeprefix(prefix)}
        self.lines: Counter[str] = Counter()
        self.arrows: dict[str, set[str]] = defaultdict(set)
        for module in listed:
            if module.name in room_of:
                room = room_of[module.name]
                self.lines[room] += module.lines
                self.arrows[room] |= {room_of[name] for name in module.imports if name in room_of} - {room}
        self.names = {room: f"{room}/" if room in folders else f"{room}.py" for room in self.lines}

    @property
    def count(self) -> int:
        """How many arrows there are."""
        return sum(map(len, self.arrows.values()))

    def shown(self) -> list[str]:
        """The arrows that do not follow from others, as ``from->to``."""
        return [
            f"{self.names[room]}->{self.names[other]}"
            for room in sorted(self.lines)
            for other in sorted(self.arrows[room])
            if not any(other in _reached(between, self.arrows) for between in self.arrows[room] - {other})
        ]

    def floors(self) -> dict[str, int]:
        """The floor of each room, from 1 on; rooms of a circle have none."""
        floors: dict[str, int] = {}
        while True:
            ready = [
                room
                for room in self.lines
                if room not in floors and all(other in floors for other in self.arrows[room])
            ]
            if not ready:
                return floors
            floors.update({room: max((floors[other] for other in self.arrows[room]), default=0) + 1 for room in ready})


def circles(arrows: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """The sets of nodes that reach each other."""
    reach = {node: _reached(node, arrows) for node in arrows}
    sets = {
        frozenset(other for other in reach[node] if node in reach.get(other, ()))
        for node in arrows
        if node in reach[node]
    }
    return [set(circle) for circle in sets]


def _reached(start: str, arrows: Mapping[str, Iterable[str]]) -> set[str]:
    reached: set[str] = set()
    queue = list(arrows.get(start, ()))
    while queue:
        node = queue.pop()
        if node not in reached:
            reached.add(node)
            queue += arrows.get(node, ())
    return reached


def dot(house: House) -> str:
    """The picture, for Graphviz: an arrow that follows from others is left out."""
    floors = house.floors()
    lines = [
        "digraph house {",
        '  rankdir=TB; bgcolor="white"; ranksep=0.45; nodesep=0.2;',
        '  node [shape=box, style="filled,rounded", fillcolor="#eef3f8", color="#5b7083", fontname="sans-serif"];',
        '  edge [color="#9aa9b5", arrowsize=0.6];',
    ]
    for room in sorted(house.lines):
        lines.append(f'  "{house.names[room]}" [tooltip="{house.lines[room]} lines"];')
    for floor in sorted(set(floors.values()), reverse=True):
        rooms = " ".join(f'"{house.names[room]}";' for room in sorted(floors) if floors[room] == floor)
        lines.append(f"  {{ rank=same; {rooms} }}")
    lines += [f'  "{here}" -> "{there}";' for here, there in (arrow.split("->") for arrow in house.shown())]
    return "\n".join([*lines, "}", ""])


def vague_names(path: Path) -> list[str]:
    """The functions of a file that call a variable or parameter by a word that says nothing, with that word."""
    vague = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stored = {
                name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
            names = stored | {name.arg for name in ast.walk(node) if isinstance(name, ast.arg)}
            vague += [f"{node.name}: {name}" for name in sorted(names & VAGUE)]
    return vague


def _texts(path: Path) -> Iterator[str]:
    """The docstrings and comments of a file; comments in following lines are one text."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""
    comment = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment += " " + token.string.lstrip("# ")
        elif token.type not in (tokenize.NL, tokenize.NEWLINE):
            yield comment
            comment = ""


def _clauses(text: str) -> list[list[str]]:
    clauses = (re.findall(r"[A-Za-z']+", clause.lower()) for clause in re.split(r"[.;:,()]\s|\n\n|[.;:]$", text))
    return [words for words in clauses if len(words) > 2]


def measure(tree: Path) -> list[tuple[str, str]]:
    """What is counted, with its figure."""
    paths = [path for source in SOURCES for path in sorted((tree / source).rglob("*.py"))]
    listed, code = modules(tree), {path: path.read_text(encoding="utf-8") for path in paths}
    house, total = House(listed), sum(len(text.splitlines()) for text in code.values())
    nodes = [node for text in code.values() for node in ast.walk(ast.parse(text))]
    functions = sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes)
    classes = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    records = sum(len(re.findall(r"(?:dict|Mapping)\[str, Any\]", text)) for text in code.values())
    clauses = [clause for path in paths for text in _texts(path) for clause in _clauses(text)]
    bare = sum(sum(word in _PRONOUNS for word in clause) >= _MANY_PRONOUNS for clause in clauses)
    vague = sum(len(vague_names(path)) for path in paths)
    inside = House(listed, "host")
    return [
        ("files, lines", f"{len(paths)}, {total}"),
        ("rooms, imports between them, floors", f"{len(house.lines)}, {house.count}, {max(house.floors().values())}"),
        ("the same inside host/", f"{len(inside.lines)}, {inside.count}, {max(inside.floors().values())}"),
        ("circles of files", str(len(circles({module.name: module.imports for module in listed})))),
        ("circles of rooms", str(len(circles(house.arrows)) + len(circles(inside.arrows)))),
        (
            f"files of more than {_MANY_LINES} lines",
            str(sum(len(text.splitlines()) > _MANY_LINES for text in code.values())),
        ),
        ("class names that stand in two files", str(sum(number > 1 for number in classes.values()))),
        ("vague names of variables in 100 functions", f"{100 * vague / functions:.1f}"),
        ("dict[str, Any] and Mapping[str, Any] in 1,000 lines", f"{1000 * records / total:.1f}"),
        (f"clauses with {_MANY_PRONOUNS} bare pronouns", f"{100 * bare / len(clauses):.2f} % of {len(clauses)}"),
    ]


def main() -> int:
    """Write the pictures, or show the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.house", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="Show the figures.")
    parser.add_argument("folder", type=Path, nargs="?", default=TREE, metavar="FOLDER")
    args = parser.parse_args()
    if args.measure:
        for what, figure in measure(args.folder):
            print(f"{what}: {figure}")
        return 0
    for name, within in (("architecture", ""), ("architecture-host", "host")):
        source = dot(House(modules(), within))
        drawn = subprocess.run(
            ["dot", "-Tsvg"], input=source, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        (args.folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
