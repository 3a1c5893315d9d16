"""Functions thrown by dice, with what they call: guards, what looks like them, and the code that compilers put around.

One function is a small kernel: kvm_skip_emulated_instruction, its callee, another function of the PMU, a helper, and
stubs for all else.
"""

from __future__ import annotations

import random
from typing import Final

from pmuconf.host.names import FUNCTION
from tests.unit.host.guard.assembled import CALLEE
from tests.unit.host.guard.instructions import CONDITIONS

__all__ = ["COUNTER", "HELPER", "OF_PMU", "STUBS", "STUB_SIZE", "function", "stubs"]

STUBS: Final = (
    *("__SCT__kvm_x86_get_rflags", "__SCT__kvm_x86_pmu_isr", "kvm_make_request", "kvm_vcpu_do_singlestep"),
    *("__SCT__kvm_x86_skip_emulated_instruction", "__fentry__", "__x86_indirect_thunk_rax", "__x86_return_thunk"),
)
STUB_SIZE: Final = 16
COUNTER: Final = 0x370
"""Where the vCPU's PMU state has the address of a counter."""
HELPER: Final = "has_something"
OF_PMU: Final = "kvm_pmu_something"
"""A function of the PMU that the check does not know."""
_LONG = ("rax", "rbx", "rcx", "rdx", "rsi", "rbp", "r8", "r12")
_PART = {
    8: {"rax": "al", "rbx": "bl", "rcx": "cl", "rdx": "dl", "rsi": "sil", "rbp": "bpl", "r8": "r8b", "r12": "r12b"},
    4: {"rax": "eax", "rbx": "ebx", "rcx": "ecx", "rdx": "edx", "rsi": "esi", "rbp": "ebp", "r8": "r8d", "r12": "r12d"},
    2: {"rax": "ax", "rbx": "bx", "rcx": "cx", "rdx": "dx", "rsi": "si", "rbp": "bp", "r8": "r8w", "r12": "r12w"},
}
_FRAME = 48


def stubs() -> str:
    """The functions that all of them call, at the start of the code, each in a slot of its own."""
    body = {"__x86_indirect_thunk_rax": "jmp rax"}
    return "\n".join(f".balign {STUB_SIZE}; {name}: {body.get(name, 'ret')}" for name in STUBS)


def function(dice: random.Random, number: int) -> str:
    """The source of one: its functions have their names with its number behind."""
    return _Function(dice, number).source()


class _Function:
    def __init__(self, dice: random.Random, number: int) -> None:
        self.dice, self.number = dice, number
        self._labels = 0
        self._lines: list[str] = []
        self._tables: list[str] = []
        self._vm = self._value = ""

    def source(self) -> str:
        main = self._main()
        parts = ((FUNCTION, main), (CALLEE, self._counting()), (OF_PMU, self._counting()), (HELPER, self._helper()))
        return "\n".join(f".balign 16; {name}.{self.number}: {'; '.join(lines)}" for name, lines in parts)

    # ---- the three functions --------------------------------------------------------------------------------------

    def _main(self) -> list[str]:
        dice = self.dice
        self._lines = lines = []
        if dice.random() < 0.3:
            lines.append("call __fentry__")
        framed = dice.random() < 0.3
        lines += ["push rbp", "mov rbp, rsp"] if framed else ["push rbp"]
        lines += ["push rbx", "push r12", f"sub rsp, {_FRAME}", "mov rbx, rdi"]
        self._own = ("rax", "rcx", "rdx", "rsi", "r8") if framed else ("rax", "rcx", "rdx", "rsi", "r8", "rbp", "r12")
        for _ in range(dice.randrange(1, 4)):
            self._noise()
        for _ in range(dice.choice((0, 1, 1, 1, 1, 2))):
            self._work(dice.random() < 0.75)
        for _ in range(dice.randrange(2)):
            self._noise()
        leave = [f"add rsp, {_FRAME}", "pop r12", "pop rbx", "pop rbp"]
        last = ["ret", "ret", "jmp __x86_return_thunk", "jmp kvm_vcpu_do_singlestep"]
        if dice.random() < 0.1:
            out = self._label()
            self._guard(out)
            lines += ["mov rdi, rbx", *leave, f"jmp {CALLEE}.{self.number}", f"{out}:"]
        return [*lines, *leave, dice.choice(last), *self._tables]

    def _counting(self) -> list[str]:
        """The callee, or another function of the PMU."""
        dice = self.dice
        self._lines = lines = []
        kind = dice.randrange(6)
        out = self._label()
        if kind == 0:
            lines += ["mov rax, [rdi+0x10]", "cmp byte ptr [rax+0x203], 0", f"je {out}"]
        elif kind == 1:
            lines += ["mov rax, [rdi+0x340]", "test rax, rax", f"je {out}"]
        lines.append(dice.choice(("inc qword ptr [rdi+0x360]", "call __SCT__kvm_x86_pmu_isr", "mov [rdi+0x368], esi")))
        return [*lines, f"{out}: ret"]

    def _helper(self) -> list[str]:
        dice = self.dice
        self._lines = lines = ["mov rax, [rdi+0x10]", "movzx eax, byte ptr [rax+0x203]"]
        if dice.random() < 0.3:
            lines.append(dice.choice(("xor eax, 1", "mov eax, 1", "and eax, esi", "or eax, esi", "mov al, [rdi+0x18]")))
        return [*lines, "ret"]

    # ---- what is in them ------------------------------------------------------------------------------------------

    def _label(self) -> str:
        self._labels += 1
        return f".L{self.number}_{self._labels}"

    def _register(self) -> str:
        return self.dice.choice(self._own)

    def _slot(self, size: int = 8) -> str:
        word = {8: "qword", 4: "dword", 2: "word", 1: "byte"}[size]
        beside = self.dice.randrange(8) if self.dice.random() < 0.1 else 0
        return f"{word} ptr [rsp+{self.dice.choice((0, 8, 16, 24)) + beside}]"

    def _work(self, guarded: bool) -> None:
        """A call of what counts, mostly behind a test of something."""
        out = self._label()
        if guarded:
            self._guard(out)
        for _ in range(self.dice.choice((0, 0, 0, 1))):
            self._noise()
        callee = f"{CALLEE}.{self.number}"
        kinds = (
            ["inc qword ptr [rbx+0x360]"],  # the callee inlined
            [f"mov rax, [rbx+{COUNTER:#x}]", "inc qword ptr [rax+8]"],
            ["mov rdi, rbx", f"call {OF_PMU}.{self.number}"],
            ["mov rdi, rbx", "call __SCT__kvm_x86_pmu_isr"],
            ["mov rdi, rbx", f"lea rax, {callee}[rip]", "call rax"],
            ["mov rdi, rbx", f"lea rax, {callee}[rip]", "call __x86_indirect_thunk_rax"],
        )
        self._lines += self.dice.choice(kinds) if self.dice.random() < 0.2 else ["mov rdi, rbx", f"call {callee}"]
        self._lines.append(f"{out}:")

    def _guard(self, out: str) -> None:
        """A test of something, and a branch around what follows."""
        if self.dice.random() < 0.15:
            vm, member = self._register(), self.dice.choice((0x203, 0x203, 0x203, 0x202))
            self._lines += [f"mov {vm}, [rbx+0x10]", f"cmp byte ptr [{vm}+{member:#x}], {self.dice.choice((0, 0, 1))}"]
            self._lines.append(f"j{self.dice.choice(('e', 'e', 'ne', 'b', 'be', 'a'))} {out}")
            return
        self._telling()
        for _ in range(self.dice.choice((0, 0, 1, 2, 3))):
            self._noise() if self.dice.random() < 0.4 else self._change()
        self._test(out)

    def _telling(self) -> None:
        """The byte, or something else, in a register."""
        dice, lines = self.dice, self._lines
        self._value = value = self._register()
        kind = dice.randrange(10)
        if kind == 0:
            lines += ["mov rdi, rbx", f"call {HELPER}.{self.number}"]
            if value != "rax":
                lines.append(dice.choice((f"mov {value}, rax", f"movzx {_PART[4][value]}, al")))
        elif kind == 1:
            lines.append(f"mov {value}, [rbx+0x340]")
        else:
            vm = self._register()
            lines.append(f"mov {vm}, [rbx+0x10]")
            place = f"byte ptr [{vm}+{dice.choice((0x203, 0x203, 0x203, 0x203, 0x203, 0x203, 0x202, 0x204)):#x}]"
            if kind == 2:
                other = self._register()
                lines += [f"mov {other}, 0x200", f"movzx {_PART[4][value]}, byte ptr [{vm}+{other}+3]"]
            elif kind == 3:
                lines.append(f"mov {_PART[8][value]}, {place}")
            elif kind == 4:
                lines += [f"cmp {place}, {dice.choice((0, 0, 1))}", f"set{dice.choice(CONDITIONS)} {_PART[8][value]}"]
                lines += [f"movzx {_PART[4][value]}, {_PART[8][value]}"] if dice.random() < 0.7 else []
            else:
                lines.append(f"movzx {_PART[4][value]}, {place}")

    def _change(self) -> None:
        """Something that is done to the value, and goes on with the result."""
        dice, lines = self.dice, self._lines
        value, other = self._value, self._register()
        size = dice.choice((8, 4, 4, 4, 2, 1))
        mine = value if size == 8 else _PART[8 if size == 1 else size][value]
        theirs = other if size == 8 else _PART[8 if size == 1 else size][other]
        slot = self._slot(size)
        again = slot.replace("qword", {8: "qword", 4: "dword", 2: "word", 1: "byte"}[size])
        wide = max(size, 4)
        mine_wide, theirs_wide = (name if wide == 8 else _PART[4][name] for name in (value, other))
        kind = dice.randrange(18)
        if kind < 3:
            lines += [f"mov {slot}, {mine}"]
            for _ in range(dice.randrange(3)):
                self._noise()
            lines += [f"mov {mine}, {again}"]
        elif kind == 3:
            lines += [f"push {value}", f"mov {theirs_wide}, [rsp]", "add rsp, 8"]
            self._value = other
        elif kind == 4:
            lines += [f"push {value}"]
            lines += [f"pop {other}"]
            self._value = other
        elif kind == 5:
            lines.append(f"mov {theirs}, {mine}")
            self._value = other
        elif kind == 6:
            lines.append(f"{dice.choice(('and', 'and', 'or', 'xor', 'add', 'sub', 'adc', 'sbb'))} {mine}, {theirs}")
        elif kind == 7:
            number = dice.choice((0, 1, 1, 1, 2, 3, 127, -1, -2))
            lines.append(f"{dice.choice(('and', 'and', 'or', 'xor', 'xor', 'add', 'sub'))} {mine}, {number}")
        elif kind == 8:
            lines.append(f"{dice.choice(('neg', 'not', 'inc', 'dec', 'bswap', 'shl', 'ror', 'sar'))} {mine_wide}")
        elif kind == 9:
            lines += [f"test {mine}, {mine}"]
            lines += [f"set{dice.choice(('e', 'ne', 'ne', 'a', 'b', 's', 'g'))} {_PART[8][other]}"]
            self._value = other
        elif kind == 10:
            lines += [self._condition(), f"cmov{dice.choice(CONDITIONS)} {mine_wide}, {theirs_wide}"]
        elif kind == 11:
            join = self._label()
            lines += [self._condition(), f"j{dice.choice(CONDITIONS)} {join}"]
            name = _PART[4][value]
            lines += [dice.choice((f"xor {name}, {name}", f"mov {name}, 1", f"mov {mine}, {theirs}"))]
            lines.append(f"{join}:")
        elif kind == 12:
            lines.append(f"{dice.choice(('andn', 'pext', 'pdep', 'bzhi'))} {mine_wide}, {mine_wide}, {theirs_wide}")
        elif kind == 13:
            lines.append(f"{dice.choice(('cmpxchg', 'xchg', 'xadd'))} {dice.choice((slot, theirs))}, {mine}")
        elif kind == 14:
            lines.append(f"movsx {_PART[4][value]}, {_PART[8][value]}")
        elif kind == 15:
            more = dice.choice((f"{value}*2", f"{value}+{value}", f"{value}-1", f"{value}+0", f"{value}+{other}"))
            lines.append(f"lea {dice.choice((value, _PART[4][value]))}, [{more}]")
        elif kind == 16 and value in ("rax", "rcx", "rdx"):
            lines += [f"mov {value[1]}h, {value[1]}l"] if dice.random() < 0.6 else []
            lines += [f"movzx {_PART[4][value]}, {value[1]}h"] if dice.random() < 0.6 else []
        else:
            lines.append(f"{dice.choice(('movzx', 'movsx'))} {_PART[4][value]}, {_PART[2][value]}")

    def _test(self, out: str) -> None:
        """A branch around the work, by the value."""
        dice, lines = self.dice, self._lines
        value, other = self._value, self._register()
        size = dice.choice((8, 4, 4, 1, 1, 2))
        mine = value if size == 8 else _PART[8 if size == 1 else size][value]
        theirs = other if size == 8 else _PART[8 if size == 1 else size][other]
        lines.append(
            dice.choice(
                (
                    *(f"test {mine}, {mine}", f"test {mine}, {mine}", f"cmp {mine}, 0", f"or {mine}, {mine}"),
                    *(f"and {mine}, {mine}", f"cmp {mine}, 1", f"test {mine}, 1", f"test {mine}, {theirs}"),
                    *(f"bt {_PART[4][value]}, 0", f"cmp {mine}, {theirs}", f"sub {mine}, 1", f"shr {mine}, 1"),
                )
            )
        )
        condition = dice.choice(("e", "e", "e", "e", "ne", "b", "ae", "be", "a", dice.choice(CONDITIONS)))
        if value == "rcx" and dice.random() < 0.2:
            short = self._label()
            lines += [f"{dice.choice(('jrcxz', 'jecxz'))} {short}", f"jmp {out}.in; {short}: jmp {out}; {out}.in:"]
        elif dice.random() < 0.15:
            inside = self._label()
            lines += [f"j{condition} {out}", "nop", f"j{dice.choice(CONDITIONS)} {inside}", "nop", f"{inside}:"]
        elif dice.random() < 0.2:
            inside = self._label()
            lines += [f"j{dice.choice(('ne', 'ne', 'e', 'a', 'ae'))} {inside}", f"jmp {out}", f"{inside}:"]
        else:
            lines.append(f"j{condition} {out}")

    def _condition(self) -> str:
        first, second = self._register(), self._register()
        other = (f"cmp {first}, {second}", "cmp dword ptr [rbx+0x20], 5", "clc")
        return self.dice.choice((f"test {first}, {second}", *other))

    def _noise(self) -> None:
        """Code that has nothing to do with it, or changes something by the way."""
        dice, lines = self.dice, self._lines
        name, other = self._register(), self._register()
        if dice.random() < 0.01:
            self._indirect()
            return
        kind = dice.randrange(18)
        if kind < 2:
            lines += ["mov rdi, rbx", f"call {dice.choice(STUBS[:1] + STUBS[2:5])}"]
        elif kind == 2:
            lines.append(f"mov {name}, [rbx+{8 * dice.randrange(4, 16)}]")
        elif kind == 3:
            lines.append(f"mov [rbx+{8 * dice.randrange(4, 16)}], {name}")
        elif kind == 4:
            lines.append(f"mov {self._slot()}, {dice.choice((name, '0', '1'))}")
        elif kind == 5:
            lines.append(f"mov {name}, {self._slot()}")
        elif kind == 6:
            lines.append(f"lea {name}, [rsp+{dice.choice((0, 8, 16))}]")
            lines.append(f"mov qword ptr [{name}{dice.choice(('', '+8'))}], {dice.choice(('0', '1', other))}")
        elif kind == 7:
            lines += [f"and {_PART[4][name]}, 3"]
            lines += [f"mov qword ptr [rsp+{name}*8{dice.choice(('', '+8'))}], {dice.choice((0, 1))}"]
        elif kind == 8:
            lines += [f"and {_PART[4][name]}, 3", f"lea {other}, [rsp+{name}*8]", f"mov byte ptr [{other}], 1"]
        elif kind == 9:
            lines += [f"and {_PART[4][name]}, 127", f"{dice.choice(('bts', 'btr', 'btc'))} qword ptr [rsp], {name}"]
        elif kind == 10:
            skip = self._label()
            lines += [self._condition(), f"j{dice.choice(CONDITIONS)} {skip}", f"inc {name}", f"{skip}:"]
        elif kind == 11:
            lines.append(f"{dice.choice(('add', 'or', 'xor', 'sub'))} {name}, {dice.choice((other, '1', '8'))}")
        elif kind == 12:
            lines += [f"mov rdi, rsp; call {dice.choice(STUBS[2:4])}"]
        elif kind == 13:
            lines += [f"push {name}", "mov rdi, rbx", f"call {HELPER}.{self.number}", f"pop {other}"]
        elif kind == 14:
            top = self._label()
            lines += [f"mov ecx, {dice.randrange(1, 4)}", f"{top}: mov [rsp+rcx*8-8], {name}", f"loop {top}"]
        elif kind == 15:
            lines.append(f"set{dice.choice(CONDITIONS)} {_PART[8][name]}")
        elif kind == 16:
            lines.append(f"mov {dice.choice('aaccddb')}h, {dice.choice((0, 1))}")
        else:
            lines.append(f"xchg {name}, {other}")

    def _indirect(self) -> None:
        """A jump table, a call through a pointer, or a look at the PMU."""
        lines, kind = self._lines, self.dice.randrange(4)
        if kind < 2:
            table, targets = self._label(), [self._label() for _ in range(4)]
            lines += [
                "mov eax, [rbx+0x20]",
                "and eax, 3",
                f"lea rcx, {table}[rip]",
                "movsxd rax, dword ptr [rcx+rax*4]",
            ]
            lines += ["add rax, rcx", self.dice.choice(("jmp rax", "notrack jmp rax", "jmp __x86_indirect_thunk_rax"))]
            for target in targets:
                lines += [f"{target}: mov edx, {self.dice.randrange(3)}"]
            self._tables.append(f"{table}: .long {', '.join(f'{target} - {table}' for target in targets)}")
        elif kind == 2:
            call = self.dice.choice(("call rax", "call __x86_indirect_thunk_rax"))
            lines += ["mov rdi, rbx", f"lea rax, {self.dice.choice(STUBS[2:5])}[rip]", call]
        else:
            lines.append(f"mov {self._register()}, [rbx+{self.dice.choice((0x300, 0x340, 0x360)):#x}]")
