"""The configuration files themselves: what stands in them, group by group, and where.

oslo.config passes over groups and options that it does not know, and does not say in which file a value stands. So the
files are also read here, and refused with file, group and option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from oslo_config import cfg

from pmuconf.conf.options import GROUPS, RULE_PREFIX, options_of
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.policy import CRITERIA

__all__ = ["ConfigFiles", "files_in"]

_QUOTED_LIST: Final = re.compile(r"""(\w+)\s*[:=]\s*(["'])(.*(?<!\\),.*)\2""")
_MAX_BYTES: Final = 1 << 20
_MAX_RULES: Final = 1000


class ConfigFiles:
    """What the files say: by file and group, the values of each option.

    :param paths: the files, in the order in which they are read.
    :raises PmuconfError: config-missing, config-unreadable or config-invalid.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)
        self._groups = {path: _groups_of(path) for path in self.paths}
        for path in self.paths:
            self._refuse_quoted_lists(path)

    def rule_names(self) -> list[str]:
        """The names of all groups of rules, in the order in which they stand."""
        names: dict[str, None] = {}
        for _, group, options in self._all_groups():
            if group.startswith(RULE_PREFIX) and options:
                names[group[len(RULE_PREFIX) :]] = None
        if len(names) > _MAX_RULES:
            raise PmuconfError(f"{len(names)} rules are too many: {_MAX_RULES} are the most", cause="config-invalid")
        return list(names)

    def check(self) -> None:
        """Refuse unknown groups and options, bad values, and rules that oslo.config would mix up.

        :raises PmuconfError: config-invalid.
        """
        self._refuse_alike(self.rule_names())
        for path, group, options in self._all_groups():
            known_options = options_of(group)
            if known_options is None and (options or group != "DEFAULT"):
                known = ", ".join(f"[{name}]" for name in (*GROUPS, f"{RULE_PREFIX}NAME"))
                _refuse_in(path, group, None, f"is no group of pmuconf; allowed: {known}")
            self._refuse_values(path, group, options, {opt.dest: opt for opt in known_options or ()})

    def refuse(self, group: str, option: str | None, problem: str) -> NoReturn:
        """Refuse an option, or a whole group; the error names the last file that has it.

        :raises PmuconfError: config-invalid.
        """
        with_group = [path for path in self.paths if group in self._groups[path]]
        with_option = [path for path in with_group if option in self._groups[path][group]]
        _refuse_in((with_option or with_group or ["built-in defaults"])[-1], group, option, problem)

    def _all_groups(self) -> Iterator[tuple[str, str, Mapping[str, list[str]]]]:
        """Each group of each file: the file, its name, and the values of its options."""
        for path, groups in self._groups.items():
            for group, options in groups.items():
                yield path, group, options

    def _refuse_alike(self, names: list[str]) -> None:
        for at, name in enumerate(names):
            for other in names[:at]:
                if name.lower() == other.lower():
                    both = f"[{RULE_PREFIX}{other}] and [{RULE_PREFIX}{name}]"
                    self.refuse(RULE_PREFIX + name, None, f"{both} differ in case alone, and count as one")

    @staticmethod
    def _refuse_values(path: str, group: str, options: Mapping[str, list[str]], known: Mapping[str, cfg.Opt]) -> None:
        for name, values in options.items():
            if name not in known:
                _refuse_in(path, group, name, f"is no option; allowed: {', '.join(known)}")
            for value in values:
                problem = _problem(known[name], value)
                if problem:
                    _refuse_in(path, group, name, problem)

    @staticmethod
    def _refuse_quoted_lists(path: str) -> None:
        """Refuse quotes around a list: oslo.config takes them away, so they hold no comma together."""
        group = ""
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                group = line.strip()[1:-1]
            quoted = _QUOTED_LIST.fullmatch(line.rstrip())
            if quoted and group.startswith(RULE_PREFIX) and quoted[1] in CRITERIA:
                problem = f"the quotes are taken away, and {quoted[3]!r} is a list: a comma in a name is written \\,"
                _refuse_in(path, group, quoted[1], problem)


def files_in(folder: str) -> list[str]:
    r"""The \*.conf files of a folder, by name; hidden files, as editors leave them, are no configuration.

    :raises PmuconfError: config-missing or config-unreadable.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        raise PmuconfError(f"{folder}: no such directory", cause="config-missing") from None
    except NotADirectoryError:
        raise PmuconfError(f"{folder}: is a file, not a directory", cause="config-unreadable") from None
    except OSError as error:
        raise PmuconfError(f"{folder}: {error.strerror}", cause="config-unreadable") from None
    return [os.path.join(folder, name) for name in sorted(names) if name.endswith(".conf") and name[0] != "."]


def _groups_of(path: str) -> dict[str, dict[str, list[str]]]:
    """The groups of one file, each with the values of its options.

    :raises PmuconfError: config-missing, config-unreadable or config-invalid.
    """
    groups: dict[str, Any] = {}
    try:
        if path != os.devnull:  # stands for no configuration
            read_regular(path, _MAX_BYTES)  # oslo.config would wait for a FIFO, and read a device without end
        cfg.ConfigParser(path, groups).parse()
    except cfg.ParseError as error:
        raise PmuconfError(f"{path}:{error.lineno}: {error.msg}", cause="config-invalid") from None
    except UnicodeDecodeError:
        raise PmuconfError(f"{path}: is not UTF-8 text", cause="config-invalid") from None
    except FileNotFoundError:
        cause = "config-unreadable" if os.path.islink(path) else "config-missing"
        raise PmuconfError(f"{path}: no such file", cause=cause) from None
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="config-unreadable") from None
    return groups


def _refuse_in(path: str, group: str, option: str | None, problem: str) -> NoReturn:
    where = f"[{group}] {option}" if option else f"[{group}]"
    raise PmuconfError(f"{path}: {where}: {problem}", cause="config-invalid")


def _problem(opt: cfg.Opt, value: str) -> str:
    """What is wrong with a value as it is written; empty if nothing is."""
    reason = "it is empty"
    try:
        if opt.type(value) is not None:
            return ""
    except ValueError as error:
        reason = str(error)
    choices = getattr(opt.type, "choices", None)
    low, high = getattr(opt.type, "min", None), getattr(opt.type, "max", None)
    if choices:
        allowed = ", ".join(str(choice) for choice in choices)
    elif low is not None:
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
    else:
        return f"{value!r} is not allowed: {reason}"
    return f"{value!r} is not allowed; allowed: {allowed}"
