"""The verdict on the running kernel beside an experiment: both must agree, or the verdict is unknown.

The experiment is that of guard.prove(). It is made once for each boot, load of KVM and verdict. What came of it is kept
in /run, for all who judge this kernel: front ends without root give the same answer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.files.replacing import replace_file
from pmuconf.host.identity import Identity
from pmuconf.host.kept import kept
from pmuconf.host.prove.guard import Proof, agrees, prove
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, GuardFinding, Verdict
from pmuconf.typed import TypedError

__all__ = ["FILE", "SECONDS", "with_experiment"]

FILE: Final = "/run/pmuconf/kernel-proof.json"
SECONDS: Final = 10
"""The most that the experiment may take. It takes milliseconds."""
_UNFINISHED: Final = "it was begun, and did not end"


@dataclass(frozen=True)
class _Experiment:
    """What came of an experiment: the calls that were counted, or the reason why none were."""

    exits: int = 0
    calls: int = 0
    callee: str = ""
    failure: str = ""


def with_experiment(root: Root, identity: Identity, finding: GuardFinding, *, make: bool = False) -> GuardFinding:
    """The verdict on the kernel with this identity, as far as an experiment that was made on it agrees.

    :param make: make the experiment, if it was not made yet for this boot, load of KVM and verdict. Requires root.
    """
    if finding.verdict is Verdict.UNKNOWN or identity.boot_id is None:
        return finding
    subject = json.dumps({**asdict(identity), "verdict": finding.verdict.value, "cause": finding.cause}, sort_keys=True)
    known = _kept(root, subject)
    if known is None:
        if not make:
            return finding
        known = _make(root, subject, finding)
    return _compared(finding, known)


def _compared(finding: GuardFinding, known: _Experiment) -> GuardFinding:
    """The verdict beside what came of the experiment."""
    if known.failure:
        return replace(finding, notes=(*finding.notes, f"the experiment could not be made: {known.failure}"))
    proof = Proof(known.exits, known.calls, known.callee, agrees(finding, known.calls))
    if proof.agrees is not False:
        return replace(finding, notes=(*finding.notes, f"an experiment: {proof.sentence}"))
    return replace(
        finding,
        verdict=Verdict.UNKNOWN,
        cause="proof-disagrees",
        message=f"the code says {finding.verdict.value} ({finding.cause}), but {proof.count}",
        evidence=Evidence.NONE,
        remedy="Report it, with a record: pmuconf host record DIR",
    )


def _make(root: Root, subject: str, finding: GuardFinding) -> _Experiment:
    """Make the experiment, and keep what came of it.

    What it fails with is kept too, and before it begins, that it did not end: it is not tried every few minutes.
    """
    try:
        _keep(root, subject, _Experiment(failure=_UNFINISHED))
        with _at_most(SECONDS):
            proof = prove(finding)
        outcome = _Experiment(proof.exits, proof.calls, proof.callee)
        _keep(root, subject, outcome)
    except PmuconfError as error:
        outcome = _Experiment(failure=error.message)
        if error.cause != "output-unwritable":
            with contextlib.suppress(PmuconfError):
                _keep(root, subject, outcome)
    return outcome


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """A block that is ended by a TimeoutError after so many seconds, even within a call to KVM. Of the main thread."""

    def give_up(*_: object) -> None:
        raise TimeoutError(errno.ETIMEDOUT, f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _keep(root: Root, subject: str, outcome: _Experiment) -> None:
    """Keep what came of the experiment.

    :raises PmuconfError: output-unwritable.
    """
    path = root.at(FILE)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise PmuconfError(f"{path.parent}: {error.strerror}", cause="output-unwritable") from None
    replace_file(path, json.dumps({"subject": subject, **asdict(outcome)}, indent=1) + "\n", ours=True)


def _kept(root: Root, subject: str) -> _Experiment | None:
    """What came of an experiment on this subject; None: there was none, or it can't be trusted."""
    known = kept(root, FILE)
    try:
        if known is None or known.get_str("subject") != subject:
            return None
        return _Experiment(
            known.get_int("exits"), known.get_int("calls"), known.get_str("callee"), known.get_str("failure")
        )
    except TypedError:
        return None
