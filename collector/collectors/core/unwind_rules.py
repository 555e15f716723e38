"""
Where a caller's registers are, by the instructions of an unwind table.

Source: DWARF 4, 6.4 "Call Frame Information" and 2.5 "DWARF Expressions"; the extensions of LSB 5.0 and AArch64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from collector.collectors.core.dwarf_reader import DwarfError, DwarfReader
from collector.collectors.core.unwind_table import FunctionEntry
from collector.host.elfcore import Layout

MASK = (1 << 64) - 1
MAX_REMEMBERED = 16
MAX_EXPRESSION_BYTES = 256

SAVED, VALUE, EXPRESSION, VALUE_EXPRESSION, REGISTER, UNDEFINED = range(6)

# Instructions. Source: DWARF 4, figure 40.
ADVANCES = {0x02: "B", 0x03: "H", 0x04: "I"}
FRAME_ADDRESS = frozenset({0x0C, 0x0D, 0x0E, 0x0F, 0x12, 0x13})
NOTHING = frozenset({0x00, 0x2D})  # 0x2d: AArch64 signs the return address, which is masked out wherever it is read


class Rule(NamedTuple):
    """How a register is found: an offset from the frame's address, an expression, another register."""

    kind: int
    offset: int = 0
    expression: bytes = b""


class RuleSet(NamedTuple):
    """The rules at one address: the frame's address is a register plus an offset, or an expression."""

    cfa_register: int
    cfa_offset: int
    cfa_expression: bytes
    rules: dict[int, Rule]


def rules_at(layout: Layout, entry: FunctionEntry, pc: int) -> RuleSet:
    """
    Return the rules at *pc*.

    Raises:
        DwarfError: If the instructions are not known, or cut off.
    """
    machine = _RuleMachine(layout, entry, pc)
    machine.run(entry.initial)
    machine.initial = dict(machine.rules)
    machine.run(entry.program)
    return RuleSet(machine.register, machine.offset, machine.expression, machine.rules)


class _RuleMachine:
    """Executes the instructions up to an address."""

    def __init__(self, layout: Layout, entry: FunctionEntry, pc: int) -> None:
        self._layout = layout
        self._entry = entry
        self._pc = pc
        self._at = entry.start
        self.register = self.offset = 0
        self.expression = b""
        self.rules: dict[int, Rule] = {}
        self.initial: dict[int, Rule] = {}
        self._remembered: list[tuple[int, int, bytes, dict[int, Rule]]] = []

    def run(self, program: bytes) -> None:
        reader = DwarfReader(self._layout, program)
        while reader.left and self._at <= self._pc:
            code = reader.byte()
            low = code & 0x3F
            match code >> 6:
                case 1:
                    self._at += low * self._entry.code_align
                case 2:
                    self.rules[low] = Rule(SAVED, reader.uleb() * self._entry.data_align)
                case 3:
                    self._restore(low)
                case _:
                    self._extended(code, reader)

    def _extended(self, code: int, reader: DwarfReader) -> None:
        if code in ADVANCES:
            self._at += reader.number(ADVANCES[code]) * self._entry.code_align
        elif code in FRAME_ADDRESS:
            self._frame_address(code, reader)
        elif code == 0x0A:
            if len(self._remembered) >= MAX_REMEMBERED:
                raise DwarfError("too many states are remembered")
            self._remembered.append((self.register, self.offset, self.expression, dict(self.rules)))
        elif code == 0x0B:
            if not self._remembered:
                raise DwarfError("no state is remembered")
            self.register, self.offset, self.expression, self.rules = self._remembered.pop()
        elif code == 0x2E:  # bytes of arguments, of no use here
            reader.uleb()
        elif code not in NOTHING:
            self._rule(code, reader)

    def _rule(self, code: int, reader: DwarfReader) -> None:
        number = reader.uleb()
        match code:
            case 0x05 | 0x11 | 0x14 | 0x15:
                offset = (reader.uleb() if code in {0x05, 0x14} else reader.sleb()) * self._entry.data_align
                self.rules[number] = Rule(VALUE if code >= 0x14 else SAVED, offset)
            case 0x06:
                self._restore(number)
            case 0x07:
                self.rules[number] = Rule(UNDEFINED)
            case 0x08:
                self.rules.pop(number, None)
            case 0x09:
                self.rules[number] = Rule(REGISTER, reader.uleb())
            case 0x10 | 0x16:
                kind = EXPRESSION if code == 0x10 else VALUE_EXPRESSION
                self.rules[number] = Rule(kind, 0, reader.take(reader.uleb()))
            case _:
                raise DwarfError(f"an instruction {code:#x}")

    def _frame_address(self, code: int, reader: DwarfReader) -> None:
        self.expression = b""
        match code:
            case 0x0C:
                self.register, self.offset = reader.uleb(), reader.uleb()
            case 0x0D:
                self.register = reader.uleb()
            case 0x0E:
                self.offset = reader.uleb()
            case 0x0F:
                self.expression = reader.take(reader.uleb())
            case 0x12:
                self.register, self.offset = reader.uleb(), reader.sleb() * self._entry.data_align
            case _:
                self.offset = reader.sleb() * self._entry.data_align

    def _restore(self, number: int) -> None:
        if number in self.initial:
            self.rules[number] = self.initial[number]
        else:
            self.rules.pop(number, None)


def evaluate(
    layout: Layout, expression: bytes, registers: dict[int, int], word_at: Callable[[int], int], stack: list[int]
) -> int:
    """
    Evaluate the few expressions that compilers put into these tables: a realigned stack, a PLT, a signal's frame.

    Raises:
        DwarfError: If it holds anything else.
    """
    if len(expression) > MAX_EXPRESSION_BYTES:
        raise DwarfError("a long expression")
    reader = DwarfReader(layout, expression)
    while reader.left:
        code = reader.byte()
        if 0x30 <= code <= 0x4F:
            stack.append(code - 0x30)
        elif 0x70 <= code <= 0x8F:
            stack.append(_known(registers, code - 0x70) + reader.sleb() & MASK)
        elif code in {0x08, 0x09, 0x0A, 0x0B}:
            stack.append(reader.number({0x08: "B", 0x09: "b", 0x0A: "H", 0x0B: "h"}[code]) & MASK)
        elif code in BINARY and len(stack) >= 2:
            right = stack.pop()
            stack.append(BINARY[code](stack.pop(), right) & MASK)
        elif code == 0x06 and stack:
            stack.append(word_at(stack.pop()))
        elif code == 0x23 and stack:
            stack.append(stack.pop() + reader.uleb() & MASK)
        else:
            raise DwarfError(f"an operation {code:#x}")
    if not stack:
        raise DwarfError("an empty expression")
    return stack[-1]


BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda left, right: left & right,
    0x1C: lambda left, right: left - right,
    0x22: lambda left, right: left + right,
    0x24: lambda left, right: left << min(right, 64),
    0x2A: lambda left, right: int(left >= right),
}


def _known(registers: dict[int, int], number: int) -> int:
    if number not in registers:
        raise DwarfError(f"register {number} is not known")
    return registers[number]


def caller_of(
    layout: Layout, rules: RuleSet, registers: dict[int, int], word_at: Callable[[int], int]
) -> tuple[int, dict[int, int]]:
    """
    Return the frame's address and the caller's registers; one that is undefined is missing.

    Raises:
        DwarfError: If a rule needs what is not known; so may *word_at*.
    """
    if rules.cfa_expression:
        frame = evaluate(layout, rules.cfa_expression, registers, word_at, [])
    else:
        frame = _known(registers, rules.cfa_register) + rules.cfa_offset & MASK
    found = dict(registers)
    for number, rule in rules.rules.items():
        if rule.kind == UNDEFINED:
            found.pop(number, None)
        elif rule.kind == REGISTER:
            found[number] = _known(registers, rule.offset)
        elif rule.kind in {SAVED, VALUE}:
            address = frame + rule.offset & MASK
            found[number] = word_at(address) if rule.kind == SAVED else address
        else:
            value = evaluate(layout, rule.expression, registers, word_at, [frame])
            found[number] = word_at(value) if rule.kind == EXPRESSION else value
    return frame, found
