"""Whether the Nova of this environment would load the plugin, and what the plugin would write.

The output and the exit status are those of ``nova-status upgrade check``: 0 no problem, 1 a warning, 2 a failure, 255
an error. The checks only read, and use neither libvirt nor the network.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import nova.conf
import prettytable
from nova import objects
from nova.virt import driver as virt_driver
from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Code, Result

from pmuconf import conf as pmuconf_conf
from pmuconf.errors import PmuconfError
from pmuconf_nova import options

__all__ = ["Checks", "main"]

CONF = nova.conf.CONF
DRIVER: Final = "pmuconf.LibvirtDriver"
TESTED: Final = range(26, 35)
"""The versions of Nova that the plugin is made for."""
_CODES: Final = {Code.SUCCESS: "Success", Code.WARNING: "Warning", Code.FAILURE: "Failure"}


class Checks:
    """The checks, in the order in which an operator would fix their findings."""

    def __init__(self) -> None:
        self._driver: type | None = None
        self._has_policy = False

    def run(self) -> list[tuple[str, Result]]:
        """Each check's name and result."""
        checks = {
            "Nova's version": self.version,
            "Loading the driver": self.loading,
            "compute_driver": self.configured,
            "Policy file": self.policy,
            "A made-up server": self.generator,
        }
        return [(name, check()) for name, check in checks.items()]

    def version(self) -> Result:
        """Whether the plugin is made for this Nova."""
        version = metadata.version("nova")
        folder = Path(nova.conf.__file__).parent.parent
        if int(version.partition(".")[0]) in TESTED:
            return Result(Code.SUCCESS, f"Nova {version} in {folder}")
        tested = f"{TESTED[0]} to {TESTED[-1]}"
        return Result(
            Code.WARNING,
            f"Nova {version} in {folder}: the plugin is made for Nova {tested}, and untested with this one.",
        )

    def loading(self) -> Result:
        """Whether Nova can load the driver by its name."""
        try:
            module = importlib.import_module("nova.virt.pmuconf")
            driver = module.LibvirtDriver
        except Exception as error:
            return Result(Code.FAILURE, f"nova.virt.{DRIVER} can't be loaded: {type(error).__name__}: {error}")
        if not issubclass(driver, virt_driver.ComputeDriver):
            return Result(Code.FAILURE, f"nova.virt.{DRIVER} is not a driver of this Nova: {module.__file__}")
        self._driver = driver
        return Result(Code.SUCCESS, f"nova.virt.{DRIVER} comes from {module.__file__}")

    def configured(self) -> Result:
        """Whether the configuration names the driver. If it does not, the result names the file to change."""
        chosen = CONF.compute_driver
        location = CONF.get_location("compute_driver")
        origin = location.detail if location is not None and location.detail else ""
        files = [str(path) for path in CONF.config_file]
        if chosen == DRIVER:
            return Result(Code.SUCCESS, f"compute_driver = {chosen}, set in {origin or 'an override'}")
        # oslo.config takes the value of the last file that has one: change that file. If none has one, change the last.
        last_file = files[-1] if files else "nova.conf, which was not found"
        target = origin if origin in files else last_file
        return Result(
            Code.FAILURE,
            f"compute_driver is {chosen!r}: set compute_driver = {DRIVER} in {target}, "
            f"and restart nova-compute. These files were read: {', '.join(files) or 'none'}",
        )

    def policy(self) -> Result:
        """Whether the policy can be read, and a summary of it."""
        path = CONF.pmuconf.policy_file if self._driver is not None else None
        try:
            settings = pmuconf_conf.load([path] if path else [])
        except PmuconfError as error:
            effect = "every build fails" if CONF.pmuconf.strict else "Nova's own domains are used"
            return Result(Code.FAILURE, f"{error}. With this error, {effect}.")
        self._has_policy = True
        files = ", ".join(settings.files) or "no file: the built-in policy"
        summary = f"default {settings.policy.default.value}, rules: {len(settings.policy.rules)}, from {files}"
        if settings.unused_rules:
            return Result(Code.WARNING, f"{summary}. Not used: {', '.join(settings.unused_rules)}")
        return Result(Code.SUCCESS, summary)

    def generator(self) -> Result:
        """What Nova's generator, run once with the plugin, writes for a flavor without any choice."""
        if self._driver is None:
            return Result(Code.FAILURE, "the driver can't be loaded")
        try:
            text = _features(self._driver)
        except Exception as error:
            return Result(Code.FAILURE, f"the generator failed: {type(error).__name__}: {error}")
        if not self._has_policy:
            return Result(Code.WARNING, f"an instance without any choice gets {text}")
        if "<pmu" not in text:
            return Result(Code.WARNING, f"the policy writes no PMU state for an instance without any choice: {text}")
        return Result(Code.SUCCESS, f"an instance without any choice gets {text}")


def _features(driver: type) -> str:
    """The <features> of a server whose flavor has no extra specs."""
    from nova.virt.libvirt import config as vconfig

    objects.register_all()
    libvirt_driver: Any = driver(object())  # its virtapi is not used here
    # Newer Novas ask libvirt for the host's memory encryption, whether or not a server wants it. libvirt may be down.
    libvirt_driver._get_mem_encryption_config = lambda *_: None
    guest = vconfig.LibvirtConfigGuest()
    guest.virt_type, guest.name, guest.uuid = CONF.libvirt.virt_type, "made-up", "00000000-0000-4000-8000-000000000000"
    flavor = objects.Flavor(name="made-up", flavorid="made-up", extra_specs={})
    image_meta = objects.ImageMeta.from_dict({"properties": {}})
    libvirt_driver._set_features(guest, "linux", image_meta, flavor)
    features = "".join(feature.to_xml() for feature in guest.features)
    return "<features>" + "".join(line.strip() for line in features.split("\n")) + "</features>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks with the configuration of nova-compute and print them. The exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options_of_nova = [word for word in words if word != "--json"]
    try:
        options.register(CONF)
        files = cfg.find_config_files("nova", "nova-compute")
        CONF(options_of_nova, project="nova", prog="nova-compute", default_config_files=files)
        results = Checks().run()
    except SystemExit as error:  # of the option parser
        return 255 if error.code else 0
    except Exception as error:
        print(f"pmuconf_nova.check: {type(error).__name__}: {error} (nova-check)", file=sys.stderr)
        return 255
    print(_json(results) if "--json" in words else _table(results))
    return int(max(result.code for _, result in results))


def _json(results: Sequence[tuple[str, Result]]) -> str:
    checks = [{"check": name, "result": int(result.code), "details": result.details} for name, result in results]
    return json.dumps({"name": "pmuconf nova check", "checks": checks})


def _table(results: Sequence[tuple[str, Result]]) -> str:
    table = prettytable.PrettyTable(["pmuconf nova check"], hrules=prettytable.ALL)
    table.align, table.max_width = "l", 100
    for name, result in results:
        table.add_row([f"Check: {name}\nResult: {_CODES[result.code]}\nDetails: {result.details}"])
    return str(table)
