"""How a module of this collection begins and ends. What is decided, pmuconf's own library decides."""

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
    """The module, once pmuconf can be imported: by this Python, or by the one that the option C(python) names."""
    module = AnsibleModule(dict(OPTIONS, **argument_spec), supports_check_mode=True, **constraints)
    try:
        import libvirt  # noqa: F401

        import pmuconf.change.run  # noqa: F401
    except ImportError:
        python = module.params["python"]
        if not has_respawned() and os.access(python, os.X_OK):
            respawn_module(python)  # never returns
        told = missing_required_lib("pmuconf[host]", reason=f"and {python} has it neither")
        module.fail_json(msg=told, cause="module-missing", exception=traceback.format_exc())
    return module


def settings(module):
    """The configuration that the options name."""
    from pmuconf import conf

    return conf.load(module.params["config_file"], module.params["config_dir"])


def run(module):
    """A run of pmuconf's; in check mode, a dry one."""
    from pmuconf.change.run import Run

    return Run(settings(module), module.params["uri"], module.check_mode, module.warn)


@contextmanager
def telling(module):
    """Errors end the module with the sentence that the command would give, and its cause code."""
    from pmuconf.errors import PmuconfError

    try:
        yield
    except PmuconfError as error:
        module.fail_json(msg=str(error), cause=error.cause, hint=error.hint)
    except ImportError as error:
        told = missing_required_lib("pmuconf[host]", reason=f"which brings {error.name}")
        module.fail_json(msg=told, cause="module-missing", exception=traceback.format_exc())


def finish(module, results):
    """Give the results of a run: what was changed, or would be, first."""
    from pmuconf.change.result import Outcome

    made = [result for result in results if result.outcome in (Outcome.CHANGED, Outcome.PLANNED)]
    pending = [result.name for result in made if result.pending]
    left = [result.status for result in results if result.outcome is not Outcome.PLANNED]
    answer = {
        "changed": bool(made),
        "results": [result.record() for result in results],
        "pending": pending,
        "status": max([1 if pending else 0, *left]),
        "diff": {
            "before_header": "PMU state of the next boot",
            "after_header": "PMU state of the next boot",
            "before": "".join(f"{result.name}: {result.old.value}\n" for result in made),
            "after": "".join(f"{result.name}: {result.new.value}\n" for result in made),
        },
    }
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    if failed:
        first = failed[0]
        more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
        told = f"domain {first.name!r}: {first.note} ({first.cause}){more}"
        module.fail_json(msg=told, cause=first.cause, **answer)
    module.exit_json(**answer)
