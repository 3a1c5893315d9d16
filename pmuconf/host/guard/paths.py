"""The path check: does every path to the counting work find ``vcpu->kvm->arch.enable_pmu`` non-zero first?

Follows every path of one function, and of what it calls for the PMU event, by abstract interpretation: at each
instruction, and for each combination of what was found out on the way, holds what all paths that get there have in
common. What is counted on is the System V ABI (a called function keeps rbx, rbp, r12-r15 and its caller's stack
frame) and that neither ``vcpu->kvm`` nor ``arch.enable_pmu`` changes once a vCPU exists.

The walk knows functions by what they are called. It doesn't enter what KVM's vendor modules do for it
(``svm_skip_emulated_instruction`` may emulate the instruction, which counts it elsewhere) nor what raises
exceptions; it enters the callee that does the counting and any helper that it doesn't know.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import capstone
from capstone import x86_const as x86

from pmuconf.host.code.image import Image
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.effects import CONDITIONS, Effects
from pmuconf.host.guard.state import SCRATCH, Base, Loaded, Pointer, State
from pmuconf.host.names import (
    HOOKS,
    INSTRUMENTATION,
    KVM_OPS,
    RETURNS,
    THUNK,
    is_callee,
    is_cold,
    is_known,
    is_of_pmu,
)

__all__ = ["PADDING", "Event", "Kind", "Walk", "walk"]

_DEPTH: Final = 4
_STEPS: Final = 10_000  # the largest of Debian's kernels takes 700
_STACK: Final = 4096  # a quarter of the kernel's stack: nobody on this path takes more
PADDING: Final = 64
"""How much room there is before a function at most, in bytes."""
_JUMPS: Final = {f"j{condition}": condition for condition in CONDITIONS}


class Kind(enum.Enum):
    """What a path came to."""

    CALL = "call"
    """The callee is called (or jumped to) with enable_pmu found non-zero: it is not entered."""
    ENTRY = "entry"
    """The callee is entered: its own paths decide."""
    WORK = "work"
    """Something is done for the PMU: the callee calls something or writes to memory; or its code is inlined."""
    TOUCH = "touch"
    """The function itself reads the vCPU's PMU state."""
    UNRESOLVED = "unresolved"
    """Something that can't be followed; ``note`` is the cause code."""


@dataclass(frozen=True)
class Event:
    """What one path came to, where, and what it had found out by then."""

    kind: Kind
    at: int
    enabled: bool | None
    counting: bool | None
    murky: bool
    note: str = ""


@dataclass
class Walk:
    """All that a walk found."""

    events: set[Event] = field(default_factory=set)
    tests: set[int] = field(default_factory=set)
    branches: set[int] = field(default_factory=set)
    loads: set[int] = field(default_factory=set)
    entered: set[int] = field(default_factory=set)
    """Where the callees begin that the function itself called with nothing found out: they decide on their own."""
    called: set[str] = field(default_factory=set)
    """What is called or jumped to by name, followed or not."""
    hooks: set[str] = field(default_factory=set)
    instructions: dict[int, str] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Event]:
        """The events of a kind, in order of their addresses."""
        return sorted((e for e in self.events if e.kind is kind), key=lambda e: (e.at, e.note, e.murky))


def walk(
    image: Image,
    entry: int,
    offsets: Offsets,
    *,
    copy: bool = False,
    callee_works: bool = False,
    watched: frozenset[str] = frozenset(),
    switched: bool = False,
) -> Walk:
    """Follow every path of the function at ``entry``, whose first argument is the vCPU.

    :param copy: the function is some other one that the code may have been inlined into: what else it calls is
        not followed.
    :param callee_works: it is known already that the callee counts whatever enable_pmu says: don't enter it.
    :param watched: functions at whose start ftrace has put a call that is known only to watch.
    :param switched: take the image's switches both ways, and not only as they stand in it.
    """
    walker = _Walker(image, offsets, copy, callee_works, watched)
    walker.switches = image.switches if switched else {}
    state = State(registers={"rdi": Pointer(Base.VCPU, 0), "rsp": Pointer(Base.STACK, 0)})
    walker.function(entry, state, 0, inside=False)
    found = walker.found
    found.tests, found.loads = walker.effects.tests, walker.effects.loads
    return found


class _Walker:
    def __init__(self, image: Image, offsets: Offsets, copy: bool, callee_works: bool, watched: frozenset[str]) -> None:
        self.image, self.offsets, self.copy, self.watched = image, offsets, copy, watched
        self.callee_works = callee_works
        self.effects = Effects(offsets)
        self.found = Walk()
        self.switches: Mapping[int, int] = {}
        self._steps = 0
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.detail = True
        self._decoded: dict[int, Any] = {}

    def function(self, entry: int, state: State, depth: int, inside: bool) -> list[State]:
        """Follow a function; the states in which it returns."""
        path = _Path(self, entry, state, depth, inside)
        path.run()
        return list(path.exits.values())

    def decode(self, address: int) -> Any:
        """The instruction there, None if there is none that can be read."""
        if address not in self._decoded:
            code = self.image.read(address, 15)
            insn = next(self._decoder.disasm(code, address, 1), None) if code else None
            self._decoded[address] = insn
            if insn is not None:
                self.found.instructions[address] = f"{insn.mnemonic} {insn.op_str}".strip()
        return self._decoded[address]

    def step(self) -> bool:
        """Count a step; whether there are any left."""
        self._steps += 1
        return self._steps <= _STEPS

    def names(self, address: int) -> tuple[str, ...]:
        """The functions that begin there; with the thunks of call depth tracking, a little before their start."""
        names = self.image.symbols.names(address)
        if not names:
            start = self.image.symbols.start(address)
            before = self.image.symbols.names(start) if start is not None and address - start < PADDING else ()
            names = tuple(name for name in before if name.startswith("__pfx_"))
        return tuple(name[6:] if name.startswith("__pfx_") else name for name in names)


class _Path:
    """One function, entered in one state."""

    def __init__(self, walker: _Walker, entry: int, state: State, depth: int, inside: bool) -> None:
        self.walker, self.entry, self.depth, self.inside = walker, entry, depth, inside
        self.exits: dict[tuple[bool | None, bool | None, bool], State] = {}
        self._known: dict[Any, State] = {}
        self._pending: list[Any] = []
        self._bottom = state.depth
        self._arrive(entry, state)

    def run(self) -> None:
        while self._pending:
            key = self._pending.pop()
            state = self._known[key].copy()
            if not self.walker.step():
                self._event(Kind.UNRESOLVED, key[0], state, "too-complex")
                return
            self._step(key[0], state)

    def _arrive(self, address: int, state: State) -> None:
        key = (address, state.enabled, state.counting, state.murky, state.depth)
        known = self._known.get(key)
        if known is not None:
            joined = known.join(state)
            if joined == known:
                return
            state = joined
        self._known[key] = state
        self._pending.append(key)

    def _event(self, kind: Kind, at: int, state: State, note: str = "") -> None:
        self.walker.found.events.add(Event(kind, at, state.enabled, state.counting, state.murky, note))

    def _unresolved(self, at: int, state: State, note: str) -> None:
        self._event(Kind.UNRESOLVED, at, state, note)

    def _step(self, address: int, state: State) -> None:
        insn = self.walker.decode(address)
        if insn is None:
            self._unresolved(address, state, "unreadable-code")
            return
        name = insn.mnemonic.split()[-1]
        following = address + insn.size
        if address in self.walker.switches:
            self._go(address, self.walker.switches[address], state.copy())
            self._fall(following, state)
        elif name in _JUMPS:
            self._branch(insn, state, _JUMPS[name], following)
        elif name in ("jrcxz", "jecxz", "loop", "loope", "loopne"):
            for target in (_target(insn), following):
                self._arrive(target, state.copy())
        elif name == "jmp":
            self._jump(insn, state)
        elif name == "call":
            self._call(insn, state, following)
        elif name == "ret":
            self._return(address, state)
        elif name == "int3":
            self.walker.found.hooks.add("a breakpoint (kprobe)")
            self._unresolved(address, state, "hooked")
        elif name in ("ud2", "ud1", "ud0", "hlt"):
            # WARN() goes on behind it, BUG() doesn't: nothing is sure from here on.
            if name == "ud2":
                self._fall(following, replace(state.copy(), murky=True), silently=True)
        else:
            self._plain(insn, state, following)

    def _plain(self, insn: Any, state: State, following: int) -> None:
        self._touches(insn, state)
        outside = self.walker.effects.apply(insn, state)
        if outside and self.inside:
            self._event(Kind.WORK, insn.address, state, "write")
        if state.depth is None or state.depth < -_STACK:
            self._unresolved(insn.address, state, "stack-lost")
            return
        self._fall(following, state)

    def _touches(self, insn: Any, state: State) -> None:
        """Take note of the function itself reading or writing the vCPU's PMU state: the callee may be inlined."""
        within = self.walker.offsets.pmu
        if self.inside or self.walker.copy or within is None or insn.mnemonic == "nop":
            return
        for operand in insn.operands:
            if operand.type == x86.X86_OP_MEM:
                place = self.walker.effects.address(insn, operand, state)
                if isinstance(place, Pointer) and place.base is Base.VCPU and within[0] <= place.offset <= within[1]:
                    writes = insn.mnemonic != "lea" and operand.access & capstone.CS_AC_WRITE
                    self._event(Kind.WORK if writes else Kind.TOUCH, insn.address, state, "inlined")

    def _fall(self, following: int, state: State, silently: bool = False) -> None:
        """Go on behind an instruction, but not into the next function."""
        names = self.walker.image.symbols.names(following)
        if names and following != self.entry and not any(n.startswith("__pfx_") for n in names):
            inner = self.walker.image.symbols.start(following - 1)
            padding = inner is not None and any(n.startswith("__pfx_") for n in self.walker.image.symbols.names(inner))
            if not padding and not all(is_cold(n) for n in names):
                if not silently:
                    self._unresolved(following, state, "falls-through")
                return
        self._arrive(following, state)

    def _branch(self, insn: Any, state: State, condition: str, following: int) -> None:
        met, unmet, murky = state.flags.on(condition) if state.flags else (None, None, False)
        if (met or unmet) and state.flags is not None:
            self.walker.found.branches.add(insn.address)
        taken, passed = state.copy(), state
        for side, fact in ((taken, met), (passed, unmet)):
            side.learn(fact)
            side.murky = side.murky or murky
        self._go(insn.address, _target(insn), taken)
        self._fall(following, passed)

    def _jump(self, insn: Any, state: State) -> None:
        operand = insn.operands[0]
        if operand.type == x86.X86_OP_IMM:
            self._go(insn.address, _target(insn), state)
        elif self._vendor(self.walker.effects.value(insn, operand, state)):
            self._return(insn.address, state)
        else:
            self._unresolved(insn.address, state, "indirect-jump")

    def _go(self, at: int, target: int, state: State) -> None:
        """Jump: within the function, to its cold part, or to another function in its last call."""
        names = self.walker.names(target)
        if any(RETURNS.fullmatch(name) for name in names):
            self._return(at, state)
        elif not names or target == self.entry or all(is_cold(name) for name in names):
            self._arrive(target, state)
        else:
            for after in self._enter(at, target, names, state):
                self._return(at, after)

    def _call(self, insn: Any, state: State, following: int) -> None:
        operand = insn.operands[0]
        if operand.type != x86.X86_OP_IMM:
            if not self._vendor(self.walker.effects.value(insn, operand, state)):
                self._indirect(insn.address, state)
            elif self.inside:
                self._event(Kind.WORK, insn.address, state, "call")
            self._fall(following, _called(state), silently=True)
            return
        target = _target(insn)
        names = self.walker.names(target)
        # Where ftrace puts its call: at the start, or behind endbr64 (a nop of that size once it is sealed).
        first = self.walker.decode(self.entry)
        behind = self.entry + 4 if first.mnemonic in ("endbr64", "nop") and first.size == 4 else self.entry
        hook = not names or any(HOOKS.fullmatch(name) for name in names)
        if hook and insn.address in (self.entry, behind):
            self.walker.found.hooks.add(self.walker.image.symbols.show(self.entry))
            if self.walker.watched.isdisjoint(self.walker.image.symbols.names(self.entry)):
                self._unresolved(insn.address, state, "hooked")
            self._arrive(following, state)
            return
        for after in self._enter(insn.address, target, names, state):
            self._fall(following, after, silently=True)

    def _enter(self, at: int, target: int, names: tuple[str, ...], state: State) -> list[State]:
        """A call of another function: the states in which it comes back."""
        walker = self.walker
        walker.found.called.update(names)
        if any(INSTRUMENTATION.fullmatch(name) for name in names):
            return [state]
        if is_callee(names):
            return self._callee(at, target, state)
        thunk = next((m for m in map(THUNK.fullmatch, names) if m), None)
        if thunk is not None:
            if not self._vendor(state.registers.get(thunk.group(1))):
                self._indirect(at, state)
            elif self.inside:
                self._event(Kind.WORK, at, state, "call")
        elif self.inside:
            self._event(Kind.WORK, at, state, "call")
        elif walker.copy:
            pass
        elif any(map(is_of_pmu, names)):
            # Some function of the PMU's that is not the callee: a test in one of its own, or the callee inlined.
            if not any(name.startswith("__SCT__") for name in names) and self._enterable(target):
                self._event(Kind.TOUCH, at, state, "pmu-function")
                return self._follow(target, state, inside=True)
            self._event(Kind.WORK, at, state, "inlined")
        elif any(map(is_known, names)):
            pass
        elif not names:
            self._unresolved(at, state, "unresolved-call")
        elif not self._enterable(target):
            self._unresolved(at, state, "unknown-callee")
        else:
            return self._follow(target, state, inside=False)
        return [_called(state)]

    def _callee(self, at: int, target: int, state: State) -> list[State]:
        if state.registers.get("rdi") != Pointer(Base.VCPU, 0) and self.walker.copy:
            self._unresolved(at, state, "other-vcpu")
        elif state.enabled:
            self._event(Kind.CALL, at, state)
        elif self.walker.callee_works:
            self._event(Kind.ENTRY, at, state)
            self._event(Kind.WORK, at, state, "call")
        elif not self._enterable(target):
            self._unresolved(at, state, "callee-unreadable")
        else:
            self._event(Kind.ENTRY, at, state)
            if not self.inside and state.enabled is None and state.counting is None and not state.murky:
                self.walker.found.entered.add(target)
            return self._follow(target, state, inside=True)
        return [_called(state)]

    def _enterable(self, target: int) -> bool:
        return self.depth + 1 < _DEPTH and bool(self.walker.image.read(target, 1))

    def _follow(self, target: int, state: State, inside: bool) -> list[State]:
        inner = state.copy()
        depth = inner.depth
        if depth is None:
            return []
        inner.registers["rsp"] = Pointer(Base.STACK, depth - 8)
        inner.store(depth - 8, None, 8)
        after = []
        for left in self.walker.function(target, inner, self.depth + 1, inside):
            back = _called(left)
            back.stack = dict(left.stack)
            back.registers["rax"] = left.registers.get("rax")
            for name in ("rbx", "rbp", "r12", "r13", "r14", "r15"):
                back.registers[name] = state.registers.get(name)
            back.registers["rsp"] = state.registers.get("rsp")
            after.append(back)
        return after

    def _return(self, at: int, state: State) -> None:
        if state.depth != self._bottom:
            self._unresolved(at, state, "stack-lost")
            return
        key = state.enabled, state.counting, state.murky
        known = self.exits.get(key)
        self.exits[key] = state if known is None else known.join(state)

    def _vendor(self, target: Any) -> bool:
        """Whether an indirect call goes through KVM's table of vendor functions, which kernels before 5.12 do."""
        if not isinstance(target, Loaded):
            return False
        start = self.walker.image.symbols.start(target.address)
        return start is not None and KVM_OPS in self.walker.image.symbols.names(start)

    def _indirect(self, at: int, state: State) -> None:
        if self.inside:
            self._event(Kind.WORK, at, state, "call")
        elif not self.walker.copy:
            self._unresolved(at, state, "indirect-call")


def _target(insn: Any) -> int:
    """Where a direct jump or call goes: capstone shows addresses of the kernel as negative."""
    return int(insn.operands[0].imm) & ((1 << 64) - 1)


def _called(state: State) -> State:
    """The state behind a call that was not followed."""
    after = state.copy()
    after.forget_stack(after.exposed)
    for name in SCRATCH:
        after.registers.pop(name, None)
    after.flags = None
    return after
