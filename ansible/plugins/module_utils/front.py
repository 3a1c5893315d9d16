"""The common beginning and end of all modules. They hold no rules: pmuconf's library decides."""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.respawn import has_respawned, respawn_module

OPTIONS = {
    "uri": {"type": "str"},
    "config_file": {"type": "list", "elements": "path", "default": []},
    "config_dir": {"type": "list", "elements": "path", "default": []},
    "python": {"type": "path", "default": "/opt/pmuconf/bin/python"},
}


def begin(argument_spec, **constraints):
    """The module. If this Python lacks pmuconf, the module starts again with the Python of the option C(python)."""
    module = AnsibleModule(dict(OPTIONS, **argument_spec), supports_check_mode=True, **constraints)
    try:
        import libvirt  # noqa: F401

        import pmuconf.change.run  # noqa: F401
    except ImportError:
        python = module.params["python"]
        if not has_respawned() and os.access(python, os.X_OK):
            respawn_module(python)  # never returns
        message = missing_required_lib("pmuconf[host]", reason=f"and {python} lacks it too")
        module.fail_json(msg=message, cause="module-missing", exception=traceback.format_exc())
    return module


def settings(module):
    """The configuration that the options name."""
    from pmuconf import conf

    return conf.load(module.params["config_file"], module.params["config_dir"])


def run(module):
    """A run with the options of the module; in check mode, a dry run."""
    from pmuconf.change.run import Run

    return Run(settings(module), module.params["uri"], module.check_mode, module.warn)


@contextmanager
def telling(module):
    """Errors of pmuconf end the module with the message and the cause code that the command would give."""
    from pmuconf.errors import PmuconfError

    try:
        yield
    except PmuconfError as error:
        module.fail_json(msg=str(error), cause=error.cause, hint=error.hint)
    except ImportError as error:
        message = missing_required_lib("pmuconf[host]", reason=f"which installs {error.name}")
        module.fail_json(msg=message, cause="module-missing", exception=traceback.format_exc())


def finish(module, results):
    """End the module with the results of a run. It fails if a domain failed."""
    from pmuconf.change.result import Outcome

    changed = [result for result in results if result.outcome in (Outcome.CHANGED, Outcome.PLANNED)]
    pending = [result.name for result in changed if result.pending]
    left = [result.status for result in results if result.outcome is not Outcome.PLANNED]
    answer = {
        "changed": bool(changed),
        "results": [result.record() for result in results],
        "pending": pending,
        "status": max([1 if pending else 0, *left]),
        "diff": {
            "before_header": "PMU state of the next boot",
            "after_header": "PMU state of the next boot",
            "before": "".join(f"{result.name}: {result.old.value}\n" for result in changed),
            "after": "".join(f"{result.name}: {result.new.value}\n" for result in changed),
        },
    }
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    if failed:
        first = failed[0]
        more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
        message = f"domain {first.name!r}: {first.note} ({first.cause}){more}"
        module.fail_json(msg=message, cause=first.cause, **answer)
    module.exit_json(**answer)
