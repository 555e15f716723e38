"""
The frames of a thread: by its modules' unwind tables, and by frame pointers where there is none.

Each step is checked, and the walk ends at the first doubt: it may miss frames, but makes none up.
"""

from __future__ import annotations

from typing import NamedTuple

from collector.collectors.core.call_site import follows_call
from collector.collectors.core.code_reader import CodeReader
from collector.collectors.core.dwarf_reader import DwarfError
from collector.collectors.core.dwarf_registers import Machine, code_address, handled_signal, machine_of
from collector.collectors.core.image import CoreImage
from collector.collectors.core.module import Module, ModuleTable
from collector.collectors.core.stacks import GUARD_BYTES
from collector.collectors.core.unwind_rules import RuleSet, caller_of, rules_at
from collector.collectors.core.unwind_table import FunctionEntry, find_function
from collector.host.core_segments import PF_X, Segment

MAX_FRAMES = 64
MAX_STEPS = 2048
"""Of all threads together: 0.1 ms each. A signature needs the crashed thread's first 20."""

MAX_TABLE_BYTES = 256 << 10
"""Of instructions of unwind tables, of all steps together: 0.2 s. A function's are about 30 bytes."""

END, LIMIT = "its beginning", "the limit"


class Frame(NamedTuple):
    """
    One frame.

    *address* is the program counter, or where a call returns to; *in_code*: it is executable. *function* is what the
    module's unwind table says about it. *handled* is the signal whose handler returns here, with the stack pointer
    *handler_sp*.
    """

    address: int
    module: Module | None
    function: FunctionEntry | None = None
    handled: int = 0
    handler_sp: int = 0
    in_code: bool = True

    @property
    def offset(self) -> int:
        return self.address - (self.module.start if self.module else 0)

    def __str__(self) -> str:
        return f"{self.module.name}+{self.offset:#x}" if self.module else f"{self.address:#x}"


class Walk(NamedTuple):
    """Frames from the innermost on, and where they end: `END`, or why they were not followed further."""

    frames: tuple[Frame, ...]
    end: str


class FrameWalker:
    """
    Walks the frames of a process's threads.

    Args:
        image: The core.
        modules: Its modules.
        code: Reads its memory.
    """

    def __init__(self, image: CoreImage, modules: ModuleTable, code: CodeReader) -> None:
        self._layout = image.layout
        self._machine = machine_of(image.layout)
        self._segments = image.segments
        self._modules = modules
        self._code = code
        self._left = MAX_STEPS
        self._left_bytes = MAX_TABLE_BYTES
        self._functions: dict[int, FunctionEntry | None] = {}
        self._rules: dict[int, RuleSet] = {}
        self._executable: dict[int, bool] = {}
        self._stack: Segment | None = None

    def walk(self, pc: int, registers: dict[int, int]) -> Walk:
        """Return the frames of a thread with these registers, by their numbers in unwind tables."""
        frames: list[Frame] = []
        exact = True  # a return address may be the first of the next function: the call before it counts
        end = "frames of this machine are not walked"
        while True:
            frame = self._frame(pc, exact=exact)
            if self._machine is None or not registers:
                return Walk((frame,), end)
            if frame.function is not None and frame.function.is_signal:
                sp = registers.get(self._machine.sp, 0)
                frame = frame._replace(handled=handled_signal(self._layout, sp, self._code.read), handler_sp=sp)
            frames.append(frame)
            if len(frames) == MAX_FRAMES or not self._left:
                return Walk(tuple(frames), LIMIT)
            self._left -= 1
            try:
                pc, registers = self._caller(self._machine, frame, registers, exact=exact)
            except DwarfError as exc:
                return Walk(tuple(frames), str(exc))
            if not pc:
                return Walk(tuple(frames), END)
            exact = frame.function is not None and frame.function.is_signal

    def _frame(self, pc: int, *, exact: bool) -> Frame:
        at = pc if exact else pc - 1
        module = self._modules.find(at)
        if module is None:
            return Frame(pc, None, in_code=self._is_code(at))
        return Frame(pc, module, self._function(module, at), in_code=self._is_code(at))

    def _function(self, module: Module, at: int) -> FunctionEntry | None:
        if at not in self._functions:
            try:
                found = find_function(self._layout, self._code.read, module.unwind_at, at) if module.unwind_at else None
            except DwarfError:
                found = None
            self._functions[at] = found
        return self._functions[at]

    def _caller(
        self, machine: Machine, frame: Frame, registers: dict[int, int], *, exact: bool
    ) -> tuple[int, dict[int, int]]:
        """Return the caller's program counter, 0 at the outermost frame, and its registers."""
        sp = registers[machine.sp]
        if frame.function is not None:
            pc, found = self._by_table(machine, frame, frame.function, registers, exact=exact)
        elif exact and not self._is_code(frame.address):  # a call to where there is no code
            pc, found = self._by_call(machine, registers)
        else:
            pc, found = self._by_record(machine, registers)
        if not pc:
            return 0, {}
        by_signal = frame.function is not None and frame.function.is_signal
        if not by_signal and not self._is_above(found[machine.sp], sp, leaf=exact and machine.link):
            raise DwarfError("its stack does not lead upwards")
        if not self._is_code(pc):
            raise DwarfError("a return address is not in executable memory")
        return pc, found

    def _by_table(
        self, machine: Machine, frame: Frame, function: FunctionEntry, registers: dict[int, int], *, exact: bool
    ) -> tuple[int, dict[int, int]]:
        rules = self._rules_at(function, frame.address - (not exact))
        frame_at, found = caller_of(self._layout, rules, registers, self._word_at)
        pc = code_address(self._layout, found.pop(function.return_register, 0))
        if machine.link and pc:
            found[function.return_register] = pc
        if machine.sp not in rules.rules:
            found[machine.sp] = frame_at
        return pc, found

    def _rules_at(self, function: FunctionEntry, at: int) -> RuleSet:
        if at not in self._rules:  # most threads wait in the same places
            self._left_bytes -= len(function.initial) + len(function.program)
            if self._left_bytes < 0:
                raise DwarfError(LIMIT)
            self._rules[at] = rules_at(self._layout, function, at)
        return self._rules[at]

    def _by_call(self, machine: Machine, registers: dict[int, int]) -> tuple[int, dict[int, int]]:
        found = dict(registers)
        if machine.link:
            return code_address(self._layout, found[machine.return_address]), found
        found[machine.sp] += 8
        pc = self._word_at(registers[machine.sp])
        if not self._is_code(pc) or follows_call(self._code.read, pc) is False:
            raise DwarfError("it is not where a call leads to")
        return pc, found

    def _by_record(self, machine: Machine, registers: dict[int, int]) -> tuple[int, dict[int, int]]:
        """Follow a frame record: the caller's frame pointer, and above it the return address."""
        at = registers.get(machine.fp, 0)
        if not at:
            raise DwarfError("no unwind table, and no more frame pointers")
        if at % 8 or not self._is_above(at + 16, registers[machine.sp], leaf=False):
            raise DwarfError("no unwind table, and the frame pointer is none")
        pc = code_address(self._layout, self._word_at(at + 8))
        if not pc:
            raise DwarfError("no unwind table, and the frame pointer is none")
        if self._layout.machine == "x86_64" and follows_call(self._code.read, pc) is False:
            raise DwarfError("no unwind table, and the frame pointer leads to no call")
        return pc, {machine.fp: self._word_at(at), machine.sp: at + 16}

    def _is_above(self, high: int, low: int, *, leaf: bool) -> bool:
        """Return whether *high* is above *low* on the same stack; a *leaf* function may have used nothing of it."""
        segment = self._stack
        if segment is None or not segment.start < high <= segment.end:
            segment = self._stack = self._segments.find(high - 1)
        return segment is not None and low < high + leaf and low >= segment.start - GUARD_BYTES

    def _is_code(self, address: int) -> bool:
        if address not in self._executable:
            segment = self._segments.find(address)
            self._executable[address] = segment is not None and bool(segment.flags & PF_X)
        return self._executable[address]

    def _word_at(self, address: int) -> int:
        raw = self._code.read(address, 8)
        if len(raw) < 8:
            raise DwarfError("its stack is not in the core")
        return self._layout.unpack("Q", raw)[0]
