"""The path check: whether every path to the counting work finds ``vcpu->kvm->arch.enable_pmu`` non-zero first.

docs/path-check.md has the question, the states, the order of steps, and why the answer can be relied on. In short: the
check follows every path of one function by abstract interpretation. It assumes the System V ABI (a called function
keeps rbx, rbp, r12 to r15 and its caller's stack frame), and that ``vcpu->kvm`` and ``arch.enable_pmu`` do not change
once a vCPU exists.

The walk knows functions by their names. It enters the callee, which counts, and every helper that it does not know. It
does not enter functions of KVM's vendor modules (``svm_skip_emulated_instruction`` may emulate the instruction, which
counts it elsewhere), nor those that raise exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Optional

import capstone
from capstone import x86_const as x86

from pmuconf.host.code.image import Image
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.guard.effects import CONDITIONS
from pmuconf.host.guard.events import Event, Kind, Obstacle, Walk
from pmuconf.host.guard.registers import move_stack_pointer, set_part
from pmuconf.host.guard.state import MURKY, SCRATCH, Base, Fact, Loaded, Number, Pointer, State, Truth, Value
from pmuconf.host.guard.walker import Options, Walker
from pmuconf.host.names import (
    HOOKS,
    INSTRUMENTATION,
    KVM_OPS,
    PADDING_PREFIX,
    RETURNS,
    STATIC_CALL,
    THUNK,
    is_callee,
    is_cold,
    is_known,
    is_of_pmu,
)

__all__ = ["walk"]

_DEPTH: Final = 4
_STACK: Final = 4096  # a quarter of the kernel's stack: nothing on this path takes more
_KEPT: Final = ("rbx", "rbp", "r12", "r13", "r14", "r15")
"""The registers that a function leaves as they were, by the System V ABI; and rsp."""
_JUMPS: Final = {f"j{condition}": condition for condition in CONDITIONS}

_ELSEWHERE: Final = frozenset(
    {
        *(capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL, capstone.CS_GRP_RET, capstone.CS_GRP_INT, capstone.CS_GRP_IRET),
        x86.X86_GRP_BRANCH_RELATIVE,  # capstone 4 has it here only
    }
)
"""The decoder's groups of instructions that go on elsewhere."""

# What the states of a path are kept apart by, at each instruction and at the end: what they learned, and rsp.
_Key = tuple[int, Optional[bool], Optional[bool], bool, Optional[int]]
_Exit = tuple[Optional[bool], Optional[bool], bool]


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

    :param copy: the function is another one, into which the code may be inlined: only its calls of the callee count,
        and no other function is followed.
    :param callee_works: it is known that the callee counts whatever enable_pmu says: don't enter it.
    :param watched: functions at whose start ftrace has put a call that is known only to watch.
    :param switched: take the image's switches both ways, and not only as they stand in it.
    """
    walker = Walker(image, offsets, Options(copy, callee_works, watched), image.switches if switched else {})
    state = State(registers={"rdi": Pointer(Base.VCPU, 0), "rsp": Pointer(Base.STACK, 0)})
    _Path(walker, entry, state, 0, inside=False).run()
    path = walker.path
    path.tests, path.loads = walker.effects.operands.tests, walker.effects.operands.loads
    return path


class _Path:
    """One function, entered in one state.

    :param depth: how many functions are entered already.
    :param inside: the function is the callee, or one that it calls: what it does is work.
    """

    def __init__(self, walker: Walker, entry: int, state: State, depth: int, *, inside: bool) -> None:
        self.walker, self.entry, self.depth, self.inside = walker, entry, depth, inside
        self._exits: dict[_Exit, State] = {}
        self._known: dict[_Key, State] = {}
        self._pending: list[_Key] = []
        self._bottom = state.depth
        self._arrive(entry, state)

    def run(self) -> Iterable[State]:
        """Go on from each state that is new, until none is; the states in which the function returns."""
        while self._pending:
            key = self._pending.pop()
            state = self._known[key].copy()
            if not self.walker.step():
                for left in (key, *self._pending):  # each may be the one that has not found anything set
                    self._block(left[0], self._known[left], Obstacle.TOO_COMPLEX)
                break
            self._step(key[0], state)
        return self._exits.values()

    def _arrive(self, address: int, state: State) -> None:
        """A path gets there in a state: joined with the others that have learned the same."""
        key = (address, state.enabled, state.counting, state.murky, state.depth)
        known = self._known.get(key)
        if known is not None:
            joined = known.join(state)
            if joined == known:
                return
            state = joined
        self._known[key] = state
        self._pending.append(key)

    def _note(self, kind: Kind, at: int, state: State, obstacle: Obstacle | None = None) -> None:
        self.walker.path.events.add(Event(kind, at, state.enabled, state.counting, state.murky, obstacle))

    def _block(self, at: int, state: State, obstacle: Obstacle) -> None:
        self._note(Kind.UNRESOLVED, at, state, obstacle)

    # ---- one instruction ------------------------------------------------------------------------------------------

    def _step(self, address: int, state: State) -> None:
        insn = self.walker.decode(address)
        if insn is None:
            self._block(address, state, Obstacle.UNREADABLE_CODE)
        elif address in self.walker.switches:
            self._go(address, self.walker.switches[address], state.copy())
            self._fall(_behind(insn), state)
        else:
            other = _Path._elsewhere if not _ELSEWHERE.isdisjoint(insn.groups) else _Path._plain
            _CONTROL.get(insn.mnemonic.split()[-1], other)(self, insn, state)

    def _plain(self, insn: Any, state: State) -> None:
        """An instruction that goes on to the next one."""
        self._watch_pmu(insn, state)
        outside = self.walker.effects.apply(insn, state)
        if outside and self.inside:
            self._note(Kind.WORK, insn.address, state)
        if state.depth is None or state.depth < -_STACK:
            self._block(insn.address, state, Obstacle.STACK_LOST)
            return
        self._fall(_behind(insn), state)

    def _watch_pmu(self, insn: Any, state: State) -> None:
        """Take note of the function itself reading or writing the vCPU's PMU state: the callee may be inlined.

        So it is where a counter is written to, of which the PMU state has the address.
        """
        operands, pmu = self.walker.effects.operands, self.walker.offsets.pmu
        if self.inside or self.walker.options.copy or pmu is None or insn.mnemonic == "nop":
            return
        for operand in insn.operands:
            if operand.type != x86.X86_OP_MEM:
                continue
            place = operands.address(insn, operand, state)
            writes = insn.mnemonic != "lea" and operand.access & capstone.CS_AC_WRITE
            if place is None:  # an unknown pointer may be the vCPU's after all
                start = operands.start(insn, operand, state)
                lost = start is None and operand.mem.base and pmu[0] <= operand.mem.disp <= pmu[1]
                kind = Kind.READ if lost or operands.is_pmus(start) else None
            elif operands.is_pmus(place):
                looks = place == Pointer(Base.VCPU, self.walker.offsets.counting or 0) and operand.size == 8
                kind = Kind.WORK if writes else Kind.LOOK if looks and insn.mnemonic != "lea" else Kind.READ
            else:
                counter = isinstance(place, Pointer) and place.base is Base.COUNTER
                kind = Kind.WORK if counter and writes else None
            if kind is not None:
                self._note(kind, insn.address, state)
                self.walker.path.inlined = True

    def _fall(self, following: int, state: State, *, silently: bool = False) -> None:
        """Go on behind an instruction, but not into the next function.

        :param silently: that is no obstacle: behind a call that does not return, another function may begin.
        """
        symbols = self.walker.image.symbols
        names = symbols.names(following)
        if names and following != self.entry and not any(name.startswith(PADDING_PREFIX) for name in names):
            inner = symbols.start(following - 1)
            padding = inner is not None and any(name.startswith(PADDING_PREFIX) for name in symbols.names(inner))
            if not padding and not all(map(is_cold, names)):
                if not silently:
                    self._block(following, state, Obstacle.FALLS_THROUGH)
                return
        self._arrive(following, state)

    # ---- branches and jumps ---------------------------------------------------------------------------------------

    def _branch(self, insn: Any, state: State) -> None:
        """A conditional jump: each side learns what the flags tell."""
        condition = _JUMPS[insn.mnemonic.split()[-1]]
        met, unmet, murky = state.flags.on(condition) if state.flags else (None, None, False)
        if met or unmet:
            self.walker.path.branches.add(insn.address)
        self._go(insn.address, _target(insn), _learned(state, met, murky=murky))
        self._fall(_behind(insn), _learned(state, unmet, murky=murky))

    def _either(self, insn: Any, state: State) -> None:
        """A jump on rcx, of which nothing is learned. LOOP counts it down."""
        if insn.mnemonic.startswith("loop"):
            set_part("rcx", MURKY if isinstance(state.registers.get("rcx"), Truth) else None, state)
        for target in (_target(insn), _behind(insn)):
            self._arrive(target, state.copy())

    def _jump(self, insn: Any, state: State) -> None:
        target = self.walker.effects.operands.value(insn, insn.operands[0], state)
        if isinstance(target, Number):
            self._go(insn.address, target.value, state)
        elif self._is_vendors(target):
            self._leave(insn.address, state)
        else:
            self._block(insn.address, state, Obstacle.INDIRECT_JUMP)

    def _go(self, at: int, target: int, state: State) -> None:
        """Jump: within the function, to its cold part, or to another function in its last call."""
        names = self.walker.names(target)
        if any(map(RETURNS.fullmatch, names)):
            self._leave(at, state)
        elif not names or target == self.entry or all(map(is_cold, names)):
            self._arrive(target, state)
        else:
            for after in self._enter(at, target, names, state, jump=True):
                self._leave(at, after)

    def _return(self, insn: Any, state: State) -> None:
        if insn.operands:  # it takes arguments from the stack: the caller goes on with another stack pointer
            self._block(insn.address, state, Obstacle.STACK_LOST)
        else:
            self._leave(insn.address, state)

    def _leave(self, at: int, state: State) -> None:
        """Return to the caller; the stack has to be as it was."""
        if state.depth != self._bottom:
            self._block(at, state, Obstacle.STACK_LOST)
            return
        key = state.enabled, state.counting, state.murky
        known = self._exits.get(key)
        self._exits[key] = state if known is None else known.join(state)

    def _breakpoint(self, insn: Any, state: State) -> None:
        self.walker.path.hooks.add("a breakpoint (kprobe)")
        self._block(insn.address, state, Obstacle.HOOKED)

    def _warn(self, insn: Any, state: State) -> None:
        """WARN() goes on behind it, BUG() doesn't: nothing is sure from here on."""
        self._fall(_behind(insn), replace(state.copy(), murky=True), silently=True)

    def _elsewhere(self, insn: Any, state: State) -> None:
        """A far call or jump, a return from an interrupt, a transaction ...: no compiler makes one here."""
        self._block(insn.address, state, Obstacle.INDIRECT_JUMP)

    def _stop(self, insn: Any, state: State) -> None:
        """The path ends."""

    # ---- calls ----------------------------------------------------------------------------------------------------

    def _call(self, insn: Any, state: State) -> None:
        following = _behind(insn)
        value = self.walker.effects.operands.value(insn, insn.operands[0], state)
        if not isinstance(value, Number):
            self._through(insn.address, value, state)
            self._fall(following, _called(state), silently=True)
            return
        target = value.value
        names = self.walker.names(target)
        if self._is_hook(insn.address, names):
            self.walker.path.hooks.add(self.walker.image.symbols.show(self.entry))
            if self.walker.options.watched.isdisjoint(self.walker.image.symbols.names(self.entry)):
                self._block(insn.address, state, Obstacle.HOOKED)
            self._arrive(following, state)
            return
        for after in self._enter(insn.address, target, names, state):
            self._fall(following, after, silently=True)

    def _is_hook(self, at: int, names: tuple[str, ...]) -> bool:
        """Whether a call is ftrace's: at the start, or behind endbr64 (a nop of that size once it is sealed)."""
        first = self.walker.decode(self.entry)
        behind = self.entry + 4 if first.mnemonic in ("endbr64", "nop") and first.size == 4 else self.entry
        return at in (self.entry, behind) and (not names or any(map(HOOKS.fullmatch, names)))

    def _enter(self, at: int, target: int, names: tuple[str, ...], state: State, *, jump: bool = False) -> list[State]:
        """A call of another function, or a jump to it: the states in which it comes back.

        The order matters: what compilers call by themselves is nothing, wherever it stands; what counts is judged by
        what was learned; anything else that the callee calls is work.
        """
        self.walker.path.called.update(names)
        if any(map(INSTRUMENTATION.fullmatch, names)):
            after = state.copy()
            for name in () if names[0] in ("__fentry__", "mcount") else SCRATCH:
                after.registers.pop(name, None)
            return [after]
        if is_callee(names):
            return self._callee(at, target, state, jump=jump)
        thunk = next(filter(None, map(THUNK.fullmatch, names)), None)
        if thunk is not None:
            real = state.registers.get(thunk.group(1))
            if isinstance(real, Number) and not any(map(THUNK.fullmatch, self.walker.names(real.value))):
                return self._enter(at, real.value, self.walker.names(real.value), state, jump=jump)
            self._through(at, real, state)
        elif self.inside:
            self._note(Kind.WORK, at, state)
        elif not self.walker.options.copy:
            return self._other(at, target, names, state, jump=jump)
        return [_called(state)]

    def _other(self, at: int, target: int, names: tuple[str, ...], state: State, *, jump: bool) -> list[State]:
        """A call by the function itself, or by a helper, of something else than the callee."""
        if any(map(is_of_pmu, names)):
            # It may have a test of its own, or the callee inlined.
            if not any(name.startswith(STATIC_CALL) for name in names) and self._is_enterable(target):
                self._note(Kind.HELPER, at, state)
                return self._follow(target, state, inside=True, jump=jump)
            self._note(Kind.WORK, at, state)
        elif any(map(is_known, names)):
            pass
        elif not names:
            self._block(at, state, Obstacle.UNRESOLVED_CALL)
        elif not self._is_enterable(target):
            self._block(at, state, Obstacle.UNKNOWN_CALLEE)
        else:
            return self._follow(target, state, inside=False, jump=jump)
        return [_called(state)]

    def _callee(self, at: int, target: int, state: State, *, jump: bool) -> list[State]:
        """A call of what counts: it is entered, unless enable_pmu was found non-zero, or nothing new is to be seen."""
        options = self.walker.options
        if state.registers.get("rdi") != Pointer(Base.VCPU, 0) and options.copy:
            self._block(at, state, Obstacle.OTHER_VCPU)
        elif state.enabled:
            self._note(Kind.CALL, at, state)
            self.walker.path.spared.add(target)
        elif options.callee_works:
            self._note(Kind.ENTRY, at, state)
            self._note(Kind.WORK, at, state)
        elif not self._is_enterable(target):
            self._block(at, state, Obstacle.CALLEE_UNREADABLE)
        else:
            self._note(Kind.ENTRY, at, state)
            if not self.inside and state.enabled is None and state.counting is None and not state.murky:
                self.walker.path.entered.add(target)
            return self._follow(target, state, inside=True, jump=jump)
        return [_called(state)]

    def _through(self, at: int, target: Value, state: State) -> None:
        """A call through a pointer: of the callee it is work, and by a copy it is of no interest."""
        if self.inside:
            self._note(Kind.WORK, at, state)
        elif not self.walker.options.copy and not self._is_vendors(target):
            self._block(at, state, Obstacle.INDIRECT_CALL)

    def _is_vendors(self, target: Value) -> bool:
        """Whether an address is from KVM's table of vendor functions, through which kernels before 5.12 call."""
        if not isinstance(target, Loaded):
            return False
        start = self.walker.image.symbols.start(target.address)
        return start is not None and KVM_OPS in self.walker.image.symbols.names(start)

    def _is_enterable(self, target: int) -> bool:
        return self.depth + 1 < _DEPTH and bool(self.walker.image.read(target, 1))

    def _follow(self, target: int, state: State, *, inside: bool, jump: bool) -> list[State]:
        """The states in which a function returns to this one. A call puts the place to return to on the stack."""
        inner = state.copy()
        if not jump:
            move_stack_pointer(inner, -8)
        after = []
        for left in _Path(self.walker, target, inner, self.depth + 1, inside=inside).run():
            back = _called(left)
            back.stack = dict(left.stack)
            back.registers["rax"] = left.registers.get("rax")
            for name in (*_KEPT, "rsp"):
                back.registers[name] = state.registers.get(name)
            back.trim()
            after.append(back)
        return after


_CONTROL: Final[Mapping[str, Callable[[_Path, Any, State], None]]] = {
    **dict.fromkeys(_JUMPS, _Path._branch),
    **dict.fromkeys(("jrcxz", "jecxz", "loop", "loope", "loopne"), _Path._either),
    **dict.fromkeys(("ud1", "ud0", "hlt"), _Path._stop),
    "jmp": _Path._jump,
    "call": _Path._call,
    "ret": _Path._return,
    "int3": _Path._breakpoint,
    "ud2": _Path._warn,
}
"""The instructions that need not go on to the next one."""


def _target(insn: Any) -> int:
    """Where a direct jump or call goes: capstone shows addresses of the kernel as negative."""
    return int(insn.operands[0].imm) & ((1 << 64) - 1)


def _behind(insn: Any) -> int:
    """Where the next instruction is."""
    return int(insn.address + insn.size)


def _learned(state: State, fact: Fact | None, *, murky: bool) -> State:
    """The state on one side of a branch."""
    side = state.copy()
    side.learn(fact)
    side.murky = side.murky or murky
    return side


def _called(state: State) -> State:
    """The state behind a call that was not followed."""
    after = state.copy()
    if after.exposed:
        after.forget_stack()
    for name in SCRATCH:
        after.registers.pop(name, None)
    after.flags = None
    return after
