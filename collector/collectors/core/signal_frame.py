"""
The fault that a signal handler was called for, and then passed on by sending the signal again, or SIGABRT.

Crash handlers do that: the core's own signal then has a sender and no address. What the kernel put on the stack for the
handler has the first one's, if the handler asked for it (``SA_SIGINFO``, as glog and abseil do), and the registers of
that moment.

Source: ``struct rt_sigframe`` in arch/x86/include/asm/sigframe.h; ``struct sigcontext_64`` in
arch/x86/include/uapi/asm/sigcontext.h (Linux 6.18).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

import msgspec

from collector.collectors.core.diagnosis_facts import CrashFacts
from collector.collectors.core.notes import SENT, parse_signal
from collector.collectors.core.thread_state import ThreadState
from collector.host.memory import PAGE_BYTES, page

BELOW_BYTES, SCANNED_BYTES = 16 << 10, 64 << 10
"""
How far below the stack pointer a frame begins: with the registers of AMX it takes 11 KiB. And how far above: handlers
that print a backtrace take a few KiB.
"""

SEGMENT_REGISTERS = struct.pack("<HHHH", 0x33, 0, 0, 0x2B)
"""cs, gs, fs and ss of a 64-bit program, as every frame has them."""

# From the beginning of the frame, at the address to which the handler returns.
REGISTERS_AT, SEGMENT_REGISTERS_AT, ERROR_AT, SIGNAL_AT, FRAME_BYTES = 48, 192, 200, 312, 440
NAMES = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp",
         "rip", "eflags")  # fmt: skip
RETURN_ADDRESS_BYTES = 8
PAGE_FAULT, WRITE, FETCH = 14, 2, 16


def earlier_fault(facts: CrashFacts) -> CrashFacts | None:
    """
    Return the facts of the fault that the process's handler has passed on, if there is one.

    The thread is still within the handler, as its frames show: what else lies on a stack may be of a fault that was
    recovered from. Or the frame is below its stack pointer, if the signal was blocked until the handler had returned:
    then the thread is where that frame says.
    """
    state = facts.state
    if state is None or facts.image.layout.machine != "x86_64" or facts.image.layout.word != 8:
        return None
    for at, raw in _frames(facts, state.sp):
        found = _fault(facts, raw)
        if found is None:
            continue
        same = found.signal.number == facts.signal.number
        if at + RETURN_ADDRESS_BYTES in facts.handlers or (same and found.state == state):
            return found
    return None


def _frames(facts: CrashFacts, sp: int) -> Iterator[tuple[int, bytes]]:
    """Yield what may be the frame of a signal, by address."""
    low = max(0, page(sp - BELOW_BYTES))
    raw = bytearray()
    for at in range(low, page(sp) + SCANNED_BYTES, PAGE_BYTES):
        piece = facts.image.memory.read(at, PAGE_BYTES)
        if len(piece) < PAGE_BYTES and at > sp:
            break
        raw += piece.ljust(PAGE_BYTES, b"\0")
    found = raw.find(SEGMENT_REGISTERS)
    while found >= 0:
        start = found - SEGMENT_REGISTERS_AT
        if start >= 0 and start + FRAME_BYTES <= len(raw) and start % 8 == 0:
            yield low + start, bytes(raw[start : start + FRAME_BYTES])
        found = raw.find(SEGMENT_REGISTERS, found + 1)


def _fault(facts: CrashFacts, frame: bytes) -> CrashFacts | None:
    """Return the facts of a frame; ``None`` if it is not that of a signal which the kernel raised."""
    signal = parse_signal(facts.image.layout, frame[SIGNAL_AT:])
    error, trap, _, address = struct.unpack_from("<QQQQ", frame, ERROR_AT)
    if signal is None or signal.code in SENT or (signal.code or 0) < 0:
        return None
    if trap == PAGE_FAULT and signal.fault_address != f"{address:#x}":
        return None
    values = dict(zip(NAMES, struct.unpack_from("<18Q", frame, REGISTERS_AT), strict=True))
    read_or_write = "write" if error & WRITE else "read"
    return dataclasses.replace(
        facts,
        signal=signal,
        thread=facts.thread
        and msgspec.structs.replace(facts.thread, registers={name: f"{value:#x}" for name, value in values.items()}),
        state=facts.state and ThreadState(values["rip"], values["rsp"], facts.state.tls),
        access=read_or_write if trap == PAGE_FAULT and not error & FETCH else "access",
    )
