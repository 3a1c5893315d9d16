"""Would the Nova of this environment load the plugin, and what would it write: python -m pmuconf_nova.check

As ``nova-status upgrade check``: a table or ``--json``, exit status 0 all well, 1 a warning, 2 a failure, 255 an error.
Reads only; asks neither libvirt nor the network.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
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
_WORDS: Final = {Code.SUCCESS: "Success", Code.WARNING: "Warning", Code.FAILURE: "Failure"}


class Checks:
    """The checks, in the order in which an operator would fix what they find."""

    def __init__(self) -> None:
        self._driver: type | None = None
        self._policy = False

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
        where = Path(nova.conf.__file__).parent.parent
        if int(version.partition(".")[0]) in TESTED:
            return Result(Code.SUCCESS, f"Nova {version} in {where}")
        known = f"{TESTED[0]} to {TESTED[-1]}"
        return Result(
            Code.WARNING, f"Nova {version} in {where}: the plugin is made for Nova {known}, and untested here."
        )

    def loading(self) -> Result:
        """Whether Nova finds the driver under its name."""
        try:
            module = importlib.import_module("nova.virt.pmuconf")
            found = module.LibvirtDriver
        except Exception as error:
            return Result(Code.FAILURE, f"nova.virt.{DRIVER} can't be loaded: {type(error).__name__}: {error}")
        if not issubclass(found, virt_driver.ComputeDriver):
            return Result(Code.FAILURE, f"nova.virt.{DRIVER} is not a driver of this Nova: {module.__file__}")
        self._driver = found
        return Result(Code.SUCCESS, f"nova.virt.{DRIVER} comes from {module.__file__}")

    def configured(self) -> Result:
        """Whether the configuration names the driver; if not, which file has to change."""
        chosen = CONF.compute_driver
        place = CONF.get_location("compute_driver")
        where = place.detail if place is not None and place.detail else ""
        files = [str(path) for path in CONF.config_file]
        if chosen == DRIVER:
            return Result(Code.SUCCESS, f"compute_driver = {chosen}, set in {where or 'an override'}")
        # The last file that is read wins; so does a driver that is set in the last but one only until it is overruled.
        target = where if where in files else (files[-1] if files else "nova.conf, which was not found")
        return Result(
            Code.FAILURE,
            f"compute_driver is {chosen!r}: set compute_driver = {DRIVER} in {target}, "
            f"and restart nova-compute. Read were: {', '.join(files) or 'no files'}",
        )

    def policy(self) -> Result:
        """Whether the policy can be read, and what it says."""
        path = CONF.pmuconf.policy_file if self._driver is not None else None
        try:
            settings = pmuconf_conf.load([path] if path else [])
        except PmuconfError as error:
            effect = "every build fails" if CONF.pmuconf.strict else "Nova's own domains are used"
            return Result(Code.FAILURE, f"{error}. With it, {effect}.")
        self._policy = True
        said = f"default {settings.policy.default.value}, {len(settings.policy.rules)} rules, from " + (
            ", ".join(settings.files) or "no file: the built-in policy"
        )
        if settings.unused_rules:
            return Result(Code.WARNING, f"{said}. Not used: {', '.join(settings.unused_rules)}")
        return Result(Code.SUCCESS, said)

    def generator(self) -> Result:
        """Run Nova's generator of features once, with the plugin, for a flavor that asks for nothing."""
        if self._driver is None:
            return Result(Code.FAILURE, "the driver can't be loaded")
        try:
            text = _features(self._driver)
        except Exception as error:
            return Result(Code.FAILURE, f"the generator failed: {type(error).__name__}: {error}")
        if "<pmu" in text or not self._policy:
            return Result(Code.SUCCESS if self._policy else Code.WARNING, f"an instance without any choice gets {text}")
        return Result(Code.WARNING, f"the policy writes no PMU state for an instance without any choice: {text}")


def _features(driver: type) -> str:
    """The <features> of a server of a flavor without extra specs."""
    from nova.virt.libvirt import config as vconfig

    objects.register_all()
    made: Any = driver(object())  # the virtapi is not asked for anything
    # Nor libvirt, which may be down: newer Novas ask it what the host can encrypt, whether or not anybody wants that.
    made._get_mem_encryption_config = lambda *_: None
    guest = vconfig.LibvirtConfigGuest()
    guest.virt_type, guest.name, guest.uuid = CONF.libvirt.virt_type, "made-up", "00000000-0000-4000-8000-000000000000"
    flavor = objects.Flavor(name="made-up", flavorid="made-up", extra_specs={})
    image_meta = objects.ImageMeta.from_dict({"properties": {}})
    made._set_features(guest, "linux", image_meta, flavor)
    inner = "".join("".join(feature.to_xml().split("\n")).strip() for feature in guest.features)
    return f"<features>{inner}</features>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read Nova's configuration as nova-compute does, run the checks, print them; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    given = [argument for argument in given if argument != "--json"]
    try:
        options.register(CONF)
        files = cfg.find_config_files("nova", "nova-compute")
        CONF(given, project="nova", prog="nova-compute", default_config_files=files)
        results = Checks().run()
    except SystemExit as error:  # of the option parser
        return 255 if error.code else 0
    except Exception:
        traceback.print_exc()
        return 255
    if as_json:
        checks = [{"check": name, "result": int(result.code), "details": result.details} for name, result in results]
        print(json.dumps({"name": "pmuconf nova check", "checks": checks}))
    else:
        table = prettytable.PrettyTable(["pmuconf nova check"], hrules=prettytable.ALL)
        table.align, table.max_width = "l", 100
        for name, result in results:
            table.add_row([f"Check: {name}\nResult: {_WORDS[result.code]}\nDetails: {result.details}"])
        print(table)
    return int(max(result.code for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
