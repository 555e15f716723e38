"""The registers of a thread by the numbers that unwind tables give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from collector.collectors.core.notes import registers_at
from collector.host.elfcore import Layout


class Machine(NamedTuple):
    """
    How a machine's frames are walked.

    *order*: which of NT_PRSTATUS's registers each number stands for; *pc* is that of the program counter there.
    *return_address*, *sp* and *fp* are numbers; a frame record is the caller's *fp*, then the return address.
    *link*: the return address of a function that has called nothing is in a register.
    """

    order: tuple[int, ...]
    pc: int
    sp: int
    fp: int
    return_address: int
    link: bool


MACHINES: dict[tuple[str, int], Machine] = {
    # Source: System V ABI for AMD64, figure 3.36; DWARF for the Arm 64-bit Architecture, 4.1.
    ("x86_64", 8): Machine((10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16), 16, 7, 6, 16, False),
    ("aarch64", 8): Machine(tuple(range(32)), 32, 31, 29, 30, True),
}
ADDRESS_BITS = {"x86_64": 64, "aarch64": 48}
"""Above them, aarch64 may keep a signature of a return address (pointer authentication) or a tag."""


def machine_of(layout: Layout) -> Machine | None:
    """Return how frames are walked; ``None`` if only the program counter is known."""
    return MACHINES.get((layout.machine, layout.word))


def registers_of(layout: Layout, machine: Machine, prstatus: memoryview) -> tuple[int, dict[int, int]]:
    """Return the program counter and the registers by number; 0 and none if the note is too short."""
    at = registers_at(layout)
    count = max(*machine.order, machine.pc) + 1
    if len(prstatus) < at + 8 * count:
        return 0, {}
    values = layout.unpack(f"{count}Q", prstatus, at)
    return values[machine.pc], {number: values[index] for number, index in enumerate(machine.order)}


def code_address(layout: Layout, value: int) -> int:
    """Return a return address without what is not address in it."""
    return value & (1 << ADDRESS_BITS[layout.machine]) - 1


class SignalFrame(NamedTuple):
    """Where, from the stack pointer of the trampoline to which a handler returns, the signal and the trap stand."""

    number: int
    trap: int | None


# Source: ``struct rt_sigframe`` in arch/x86/include/asm/sigframe.h (its first word, the return address, is popped by
# then: a ucontext of 304 bytes, and siginfo) and in arch/arm64/kernel/signal.c (Linux 6.18).
SIGNAL_FRAMES = {"x86_64": SignalFrame(304, 200), "aarch64": SignalFrame(0, None)}
TRAP_SIGNALS = {3: 5, 4: 11, 6: 4, 12: 7, 13: 11, 14: 11, 16: 8, 17: 7, 19: 8}
"""Of x86's traps; 0, a division by zero, is also what stands there if there was none."""

MAX_SIGNAL, SI_KERNEL = 64, 0x80


def handled_signal(layout: Layout, sp: int, read: Callable[[int, int], bytes]) -> int:
    """
    Return which signal a handler was called for; 0 if that cannot be told.

    The kernel writes siginfo only for a handler with ``SA_SIGINFO``, else anything may stand there; the number of the
    trap always, but also that of an earlier one.
    """
    at = SIGNAL_FRAMES[layout.machine]
    raw = read(sp + at.number, 12)
    number, error, code = layout.unpack("iii", raw) if len(raw) == 12 else (0, 0, 0)
    if 1 <= number <= MAX_SIGNAL and error == 0 and -MAX_SIGNAL <= code <= SI_KERNEL:
        return number
    if at.trap is None or len(raw := read(sp + at.trap, 8)) < 8:
        return 0
    return TRAP_SIGNALS.get(layout.unpack("Q", raw)[0], 0)
