"""The files of an installation: whose they are, who may write to them, and the polkit rule."""

from __future__ import annotations

import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pmuconf.conf import Settings
from pmuconf.selftest.live import Live
from pmuconf.selftest.result import CheckResult, failed, ok, unchecked

__all__ = ["checks_of_files"]

_USER: Final = "pmuconf"
_RULES: Final = ("/etc/polkit-1/rules.d", "/run/polkit-1/rules.d", "/usr/share/polkit-1/rules.d")
_MANAGE: Final = "org.libvirt.unix.manage"
_MONITOR: Final = "org.libvirt.unix.monitor"


def checks_of_files(live: Live, chosen: Settings) -> Iterator[CheckResult]:
    """The files that the configuration names."""
    journal = chosen.journal
    if not chosen.files:
        yield ok("configuration-file", "there is none: the defaults hold")
    for file in chosen.files:
        yield _file(live, "configuration-file", file, "root", most=0o644)
    yield _file(live, "journal-folder", str(journal.parent), _USER, most=0o755)
    yield _file(live, "journal", str(journal), _USER, most=0o600)
    if chosen.service.host_facts is not None:
        yield _file(live, "host-facts-folder", str(chosen.service.host_facts.parent), "root", most=0o755)
    yield _polkit(live, enforces=chosen.service.enforces)


def _file(live: Live, name: str, path: str, owner: str, *, most: int) -> CheckResult:
    """Whether a file or folder belongs to this user, and others have no more rights than ``most``."""
    status = live.status(path)
    if isinstance(status, OSError):
        if isinstance(status, FileNotFoundError):
            return failed(name, f"{path} is not there")
        return unchecked(name, f"{path}: {status.strerror}. Run it as root")
    whose, mode = _name(status.st_uid), stat.S_IMODE(status.st_mode)
    if whose != owner:
        return failed(name, f"{path} belongs to {whose}, not to {owner}: chown {owner} {path}")
    if mode & ~most:
        return failed(name, f"{path} has mode {mode:04o}, at most {most:04o} is right: chmod {most:04o} {path}")
    return ok(name, f"{path} belongs to {owner}, mode {mode:04o}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _polkit(live: Live, *, enforces: bool) -> CheckResult:
    """Whether a rule lets the user of the service do what its configuration asks for."""
    name = "polkit-rule"
    texts, hidden = [], []
    for folder in _RULES:
        try:
            files = sorted(live.at(folder).glob("*.rules")) if live.at(folder).exists() else []
            list(live.at(folder).iterdir() if live.at(folder).exists() else [])
        except OSError:
            hidden.append(folder)
            continue
        for file in files:
            text = live.text(str(Path(folder) / file.name))
            if text is None:
                hidden.append(str(Path(folder) / file.name))
            elif _USER in text:
                texts.append(re.sub(r"//.*", "", text))
    needed = _MANAGE if enforces else _MONITOR
    if any(f'"{needed}"' in text for text in texts):
        return ok(name, f"a rule names {_USER} and {needed}")
    if hidden:
        return unchecked(name, f"{hidden[0]} can't be read. Run it as root")
    if not enforces:
        return ok(name, f"no rule names {_USER}; by libvirt's default, every user may observe")
    return failed(name, f"[service] mode is enforce, but no rule allows {_USER} {_MANAGE}: see docs/service.md")
