"""Instructions of x86-64 with operands thrown by dice, as text; and states of the path check, with a CPU's for each."""

from __future__ import annotations

import random
import re

from pmuconf.host.guard.state import Base, Fact, Flags, Number, Pointer, Question, State, Truth, Value, is_of_stack
from tests.unit.host.guard.emulated import (
    BASES,
    CARRY,
    GENERAL,
    HEAP,
    MASK,
    OVERFLOW,
    SIGN,
    STACK,
    ZERO,
    Concrete,
    holds,
)

__all__ = ["CONDITIONS", "TEMPLATES", "concrete_of", "instruction", "state"]

CONDITIONS = ("e", "ne", "a", "ae", "b", "be", "g", "ge", "l", "le", "s", "ns", "o", "no", "p", "np")
_PARTS = {
    64: GENERAL,
    32: ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", *(f"r{n}d" for n in range(8, 16))),
    16: ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", *(f"r{n}w" for n in range(8, 16))),
    8: ("al", "bl", "cl", "dl", "sil", "dil", "bpl", "spl", *(f"r{n}b" for n in range(8, 16))),
}
_HIGH = ("ah", "bh", "ch", "dh")
_FEW = tuple(GENERAL.index(name) for name in ("rax", "rbx", "rcx", "rdx", "rdi", "rbp", "r8", "r12"))
_SIZES = {8: "byte", 16: "word", 32: "dword", 64: "qword"}

# {r}, {m} and {x} are a register, a place in memory, and either of them. A number behind is the size in bits; otherwise
# the dice choose one for the whole line. {i} is a number.
TEMPLATES: tuple[str, ...] = (
    *("mov {x}, {r}", "mov {r}, {x}", "mov {x}, {i}", "mov {r}, {m}", "mov {m}, {r}", "movabs {r64}, {big}"),
    *("movzx {r32}, {x8}", "movzx {r64}, {x8}", "movzx {r16}, {x8}", "movzx {r32}, {x16}", "movzx {r64}, {x16}"),
    *("movsx {r32}, {x8}", "movsx {r64}, {x8}", "movsx {r16}, {x8}", "movsx {r64}, {x16}", "movsxd {r64}, {x32}"),
    *("lea {r64}, {m64}", "lea {r32}, {m64}", "lea {r16}, {m64}", "lea {r64}, {m64}", "lea {r64}, [{e}+{i8}]"),
    *("push {r64}", "push {m64}", "push {i8}", "push {i}", "push {r16}", "push {m16}", "push rsp", "pushfq", "pushfw"),
    *("pop {r64}", "pop {m64}", "pop {r16}", "pop {m16}", "pop rsp", "popfq", "popfw", "push fs", "pop fs"),
    *("leave", "leavew", "enter 16, 0", "enter 32, 1"),
    *(f"{name} {operands}" for name in ("add", "sub", "xor", "and", "or", "adc", "sbb", "cmp") for operands in (
        *("{x}, {r}", "{r}, {x}", "{x}, {i}", "{x}, 1", "{x}, 0", "{x}, {i8}", "{same}, {same}"),
    )),
    *("test {x}, {r}", "test {x}, {i}", "test {same}, {same}", "test {x}, 1", "cmp {x}, 0", "xor {x}, 1", "and {x}, 1"),
    *("and {x}, 255", "cmp {x}, 1", "add rsp, 16", "sub rsp, 24", "and rsp, -16", "mov rsp, rbp", "mov rbp, rsp"),
    *("lea rsp, [rsp+8]", "lea rbp, [rsp+16]", "lea {r64}, [rsp+{i8}]", "xor {r32}, {r32}", "sub {r64}, rsp"),
    *("add {r64}, rsp", "add {r64}, rbp", "lock add {m}, {r}", "lock or {m}, {i8}", "lock inc {m}"),
    *(f"{name} {{x}}{by}" for name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr") for by in (
        ", 1", ", {i5}", ", cl", ", 0",
    )),
    *(f"{name} {{x{n}}}, {{r{n}}}, {by}" for name in ("shld", "shrd") for n in (16, 32, 64) for by in ("{i5}", "cl")),
    *("inc {x}", "dec {x}", "neg {x}", "not {x}", "mul {x}", "imul {x}", "div {x}", "idiv {x}"),
    *(f"imul {{r{n}}}, {{x{n}}}{more}" for n in (16, 32, 64) for more in ("", ", {i8}", ", {i}")),
    *(f"{name} {{x{n}}}, {by}" for name in ("bt", "bts", "btr", "btc") for n in (16, 32, 64) for by in (
        "{i5}", f"{{r{n}}}",
    )),
    *(f"{name} {{r{n}}}, {{x{n}}}" for n in (16, 32, 64) for name in ("bsf", "bsr", "tzcnt", "lzcnt", "popcnt")),
    *(f"cmov{condition} {{r{n}}}, {{x{n}}}" for condition in CONDITIONS for n in (16, 32, 64)),
    *(f"set{condition} {{x8}}" for condition in CONDITIONS),
    *("xchg {x}, {r}", "xchg {r}, {r}", "xadd {x}, {r}", "lock xadd {m}, {r}", "cmpxchg {x}, {r}", "xchg rax, rsp"),
    *("lock cmpxchg {m}, {r}", "cmpxchg8b {m64}", "lock cmpxchg8b {m64}", "bswap {r32}", "bswap {r64}"),
    *("cbw", "cwde", "cdqe", "cwd", "cdq", "cqo", "lahf", "sahf", "clc", "stc", "cmc", "cld", "xlatb", "cpuid"),
    *(f"{name} {{r{n}}}, {{r{n}}}, {{x{n}}}" for n in (32, 64) for name in ("andn", "mulx", "pdep", "pext")),
    *(f"{name} {{r{n}}}, {{x{n}}}, {{r{n}}}" for n in (32, 64) for name in ("bextr", "bzhi", "sarx", "shlx", "shrx")),
    *(f"{name} {{r{n}}}, {{x{n}}}" for n in (32, 64) for name in ("blsi", "blsmsk", "blsr", "adcx", "adox")),
    *("rorx {r64}, {x64}, {i5}", "crc32 {r32}, {x8}", "crc32 {r64}, {x64}", "movnti {m64}, {r64}"),
    *("movbe {r}, {m}", "movbe {m}, {r}", "nop", "endbr64", "pause", "lfence", "mfence", "prefetcht0 {m8}"),
    *(f"{prefix}{name}{letter}" for name in ("movs", "stos") for letter in "bwdq" for prefix in ("", "rep ")),
    *(f"{prefix}{name}{letter}" for name in ("scas", "cmps") for letter in "bwq" for prefix in ("", "repe ", "repne ")),
    *(f"lods{letter}" for letter in "bwdq"),
    *("rdtsc", "rdtscp", "xgetbv", "rdrand {r64}", "rdrand {r16}", "rdseed {r32}", "rdpid {r64}"),
    *("movq xmm0, {x64}", "movq {x64}, xmm0", "movd xmm1, {x32}", "movd {x32}, xmm1", "movups {m}, xmm0"),
    *("movups xmm1, {m}", "pinsrq xmm0, {x64}, 0", "pextrq {x64}, xmm0, 0", "pextrb {x8}, xmm0, 0"),
    *("pextrd {x32}, xmm0, 1", "pmovmskb {r32}, xmm0", "movmskps {r32}, xmm1", "pextrw {r32}, xmm0, 1"),
    *("comisd xmm0, xmm1", "ucomiss xmm0, xmm1", "cvtsi2sd xmm0, {x64}", "ptest xmm0, xmm0"),
    *("movntps {m}, xmm0", "extractps {x32}, xmm0, 1", "cvttsd2si {r64}, xmm0"),
    *("sldt {r64}", "sldt {m16}", "str {r64}", "smsw {r64}", "smsw {m16}", "lar {r64}, {x16}", "lsl {r64}, {x16}"),
    *("sgdt {m}", "sidt {m}", "fnstcw {m16}", "fnstsw ax", "fnstsw {m16}", "fst {m64}", "fild {m64}", "fistp {m32}"),
    *("fistp {m64}", "fbstp {m}", "fnstenv {m}", "stmxcsr {m32}", "ldmxcsr {m32}", "fxsave {m}", "fnsave {m}"),
    *("rdfsbase {r64}", "rdgsbase {r64}", "mov {r64}, fs", "mov {m16}, fs", "mov {r64}, cr0", "mov {r64}, dr0"),
    *("mov dr0, {r64}", "verr {x16}", "invlpg {m8}", "clflush {m8}", "rdmsr", "rdpmc", "xsave {m}", "salc", "swapgs"),
    *("movdir64b {r64}, {m}", "movdiri {m64}, {r64}", "ud2", "in eax, dx", "outsb", "insb", "maskmovdqu xmm0, xmm1"),
)  # fmt: skip
_HOLE = re.compile(r"\{(\w+?)(\d*)\}")


def instruction(dice: random.Random, template: str) -> str:
    """A line of assembly from a template. Not each is an instruction: gas decides."""
    size = dice.choice((8, 8, 16, 32, 32, 64, 64, 64))
    same = _register(dice, size)

    def fill(match: re.Match[str]) -> str:
        kind, own = match.group(1), int(match.group(2) or size)
        if kind == "same":
            return same
        if kind == "big":
            return str(dice.choice((0, 1, -1, 1 << 32, (1 << 63) - 1, dice.getrandbits(63))))
        if kind == "e":
            return dice.choice(_PARTS[32])
        if kind == "i":
            return _immediate(dice, own)
        if kind == "r" or (kind == "x" and dice.random() < 0.6):
            return _register(dice, own)
        return _memory(dice, own)

    return _HOLE.sub(fill, template)


def _register(dice: random.Random, size: int) -> str:
    if size == 8 and dice.random() < 0.15:
        return dice.choice(_HIGH)
    return _PARTS[size][dice.choice(_FEW) if dice.random() < 0.9 else dice.randrange(16)]


def _immediate(dice: random.Random, size: int) -> str:
    if size == 5:
        return str(dice.choice((0, 1, 7, 8, 31, 32, 63, 64)))
    few = (0, 1, 1, 2, 3, 8, 16, 24, 127, -1, -8, -128)
    many = (255, 0xFE, 0x100, 0x7FFF, 0x7FFFFFFF, -0x80000000, 0xFFFF0000)
    return str(dice.choice(few if size == 8 or dice.random() < 0.7 else many))


def _memory(dice: random.Random, size: int) -> str:
    word = f"{_SIZES[size]} ptr " if size in _SIZES else ""
    kind = dice.randrange(12)
    low = dice.choice(
        (0, 0, 1, 4, 8, 8, 16, 24, -8, -16, -24, 0x10, 0x202, 0x203, 0x300, 0x340, 0x344, dice.randrange(-64, 64))
    )
    if kind < 4:
        return f"{word}[rsp{dice.choice((0, 0, 8, 8, 16, 24, -8, 1, 4)):+}]"
    if kind < 6:
        return f"{word}[rbp{low:+}]"
    if kind < 9:
        return f"{word}[{_PARTS[64][dice.choice(_FEW)]}{low:+}]"
    if kind < 11:
        base = dice.choice(("rsp", "rbp", *(_PARTS[64][n] for n in _FEW)))
        scale = dice.choice((1, 1, 2, 4, 8))
        index = _PARTS[64][dice.choice(_FEW)]
        return f"{word}[{base}+{index}*{scale}{low:+}]"
    return f"{word}[rip+{low & 0xFF}]" if dice.random() < 0.5 else f"{word}[{_PARTS[32][dice.choice(_FEW)]}{low:+}]"


# ---- states -------------------------------------------------------------------------------------------------------

_FACTS: tuple[Fact | None, ...] = (None, *(Fact(question, known) for question in Question for known in (False, True)))


def state(dice: random.Random) -> State:
    """A state as paths may have it, and others."""
    made = State()
    made.registers["rsp"] = Pointer(Base.STACK, -64)
    for name in dice.sample([name for name in GENERAL if name != "rsp"], dice.randrange(2, 12)):
        made.registers[name] = value = _value(dice)
        made.exposed = made.exposed or (is_of_stack(value) and name != "rbp")
    if dice.random() < 0.3:
        made.registers["rbp"] = Pointer(Base.STACK, dice.choice((-64, -56, -48, -16)))
    if dice.random() < 0.1:
        made.exposed = True
    for offset in range(-64, 16, 8):
        if dice.random() < 0.5:
            size = dice.choice((8, 8, 8, 4, 2, 1))
            value = _value(dice)
            if size < 8 and not isinstance(value, (Truth, Number)):
                continue
            if isinstance(value, Number):
                value = Number(value.value & ((1 << 8 * size) - 1))
            if value is not None:
                made.stack[offset + dice.choice((0, 0, 0, 8 - size))] = value, size
    if dice.random() < 0.6:
        facts = [dice.choice(_FACTS) for _ in range(4)]
        plain = dice.random() < 0.5
        below = (None, None) if plain or dice.random() < 0.5 else (facts[2], facts[3])
        positive, murky = dice.random() < 0.3, dice.random() < 0.1
        made.flags = Flags(facts[0], facts[1], *below, plain=plain, positive=positive, murky=murky)
    return made


def _value(dice: random.Random) -> Value:
    kind = dice.randrange(10)
    if kind < 3:
        offset = dice.choice((0, 0, 8, 16, 0x100, 0x203, -8, 0x300))
        base = dice.choice((Base.VCPU, Base.KVM, Base.STACK))
        return Pointer(base, offset if base is not Base.STACK else -8 * dice.randrange(2, 10))
    if kind < 5:
        return Number(
            dice.choice((0, 0, 1, 1, 2, 8, 255, 256, MASK, MASK - 7, 1 << 32, 0xFFFFFFFF, dice.getrandbits(64)))
        )
    if kind < 9:
        small = dice.random() < 0.5
        boolean = small and dice.random() < 0.6
        return Truth(dice.choice(_FACTS), dice.choice(_FACTS), dice.choice((1, 2, 4, 8)), small=small, boolean=boolean)
    return None


def concrete_of(dice: random.Random, made: State) -> Concrete | None:
    """One of the CPU's states that a state of the check stands for; None: there is none."""
    here = Concrete.new(
        dice, enabled=dice.random() < 0.5, counting=dice.choice((0, 0, 1, 1 << 40, dice.getrandbits(64)))
    )
    facts = {"enabled": here.enabled, "counting": here.counting}
    for at in range(-256, 64, 8):  # what is not known, on the stack and elsewhere
        here.put(STACK + at, _anything(dice, made), 8)
    for name in GENERAL:
        real = _one_of(dice, made.registers.get(name), 8, made, facts)
        if real is None:
            return None
        here.registers[name] = real
    for offset, (value, size) in made.stack.items():
        real = _one_of(dice, value, size, made, facts)
        if real is None:
            return None
        here.put(STACK + offset, real, size)
    here.flags = 2 | dice.getrandbits(12) & 0x8D5  # not the direction, and no traps
    flags = made.flags
    if flags is not None and not flags.murky:
        if flags.plain:
            here.flags &= ~CARRY
        if flags.positive:
            here.flags &= ~(SIGN | OVERFLOW)
        for bit, if_set, if_clear in ((ZERO, flags.zero, flags.nonzero), (CARRY, flags.below, flags.not_below)):
            if not holds(if_set if here.flags & bit else if_clear, **facts):
                here.flags ^= bit
                if (bit is CARRY and flags.plain) or not holds(if_set if here.flags & bit else if_clear, **facts):
                    return None
    return here


def _one_of(dice: random.Random, value: Value, size: int, made: State, facts: dict[str, bool]) -> int | None:
    if isinstance(value, Pointer):
        return (BASES[value.base] + value.offset) & MASK
    if isinstance(value, Number):
        return value.value
    if not isinstance(value, Truth):
        return _anything(dice, made)
    width = min(value.width, size)
    whole = (1 << 8 * width) - 1
    choices = [0]
    if value.boolean:
        choices.append(1)
    elif value.small:
        choices += [1, 0x80, 0xFF, dice.randrange(1, 256)]
    else:
        choices += [n & whole for n in (1, 0x80, 0x100, 1 << 32, 1 << 63, _anything(dice, made), dice.getrandbits(64))]
    fitting = [n for n in choices if holds(value.nonzero if n else value.zero, **facts)]
    if not fitting:
        return None
    return dice.choice(fitting) | (dice.choice((0, dice.getrandbits(64))) & MASK & ~whole)


def _anything(dice: random.Random, made: State) -> int:
    """What a register may hold that nothing is known of: an address of the stack only if one is known elsewhere."""
    kind = dice.randrange(8)
    if kind < 2:
        return dice.choice((0, 1, 2, 8, MASK, MASK - 7, 255, 256, 1 << 32))
    if kind < 4:
        return dice.getrandbits(64)
    if kind == 4:
        return BASES[Base.VCPU] + 8 * dice.randrange(96)
    if kind == 5:
        return HEAP + 0x800 + 8 * dice.randrange(64)
    if kind == 6 and made.exposed:
        return STACK + 8 * dice.randrange(-16, 8)
    return dice.randrange(-4, 16) * 8 & MASK
