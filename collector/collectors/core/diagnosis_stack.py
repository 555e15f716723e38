"""
Whether a stack has overflowed: the stack pointer has left its memory, and the access was where it points.

That an address is near a guard, or below a stack, shows nothing: any pointer may be.
"""

from __future__ import annotations

from collector.collectors.core.auxv import AT_EXECFN
from collector.collectors.core.diagnosis import Diagnosis, DiagnosisKind
from collector.collectors.core.diagnosis_facts import CrashFacts, allows, is_accessible
from collector.collectors.core.thread_state import ThreadState
from collector.host.core_segments import PF_R, PF_W, Segment

REACH_BYTES = 128 + 8
"""How far below its stack pointer code may write: the red zone of x86-64, or the word that a call pushes."""

LARGEST_FRAME_BYTES = 1 << 30
"""A stack pointer further below its stack is called wrong rather than overflowed."""


def stack_overflow(facts: CrashFacts) -> Diagnosis | None:
    """
    Return the overflow of the crashed thread's stack, or of the one that it was on, such as a signal handler's.

    A fault without an address (`SI_KERNEL`) is one too, if the stack is used up: a signal's frame did not fit.
    """
    state, address = facts.state, facts.address
    if state is None or facts.signal.code_name not in {"SEGV_MAPERR", "SEGV_ACCERR", "SI_KERNEL"}:
        return None
    stack = overflowed(facts, state)
    if stack is None or not _is_where_it_points(facts, stack, state.sp, address):
        return None
    fault = f"{facts.access} at {address:#x}" if address else "no room for the frame of a signal"
    size = f"{(stack.end - stack.start) >> 10} KiB"
    text = f"stack overflow: {fault} below the stack of {size} that ends at {stack.start:#x}{facts.by}"
    return Diagnosis(DiagnosisKind.STACK_OVERFLOW, text)


def _is_where_it_points(facts: CrashFacts, stack: Segment, sp: int, address: int | None) -> bool:
    if not address:
        return facts.signal.code_name == "SI_KERNEL"
    if _is_guarded_within(facts, stack, address):
        return sp - REACH_BYTES <= address
    return sp - REACH_BYTES <= address < stack.start


def _is_guarded_within(facts: CrashFacts, stack: Segment, address: int) -> bool:
    """Return whether a guard is part of the stack's mapping: MADV_GUARD_INSTALL, which glibc uses since 2.42."""
    return facts.signal.code_name == "SEGV_MAPERR" and stack.start <= address < stack.end


def overflowed(facts: CrashFacts, state: ThreadState) -> Segment | None:
    """Return the stack that a stack pointer has run out of."""
    home = home_of(facts, state)
    around = facts.image.segments.find(state.sp)
    if around is not None and is_accessible(around):
        if around == home and facts.address and _is_guarded_within(facts, around, facts.address):
            return around if facts.address < state.tls and state.sp <= facts.address + REACH_BYTES else None
        return around if state.sp - around.start < REACH_BYTES and allows(around, PF_W) else None
    above = _next_accessible(facts, state.sp)
    if above is None:
        return None
    if above == home:
        return above if above.start - state.sp <= LARGEST_FRAME_BYTES else None
    # Not the thread's own: only if the stack pointer is within a guard right below it.
    guarded = around is not None and around.end == above.start and above.flags == PF_R | PF_W
    return above if guarded and facts.file(above.start) is None else None


def home_of(facts: CrashFacts, state: ThreadState) -> Segment | None:
    """
    Return the stack that the thread began on.

    The first thread's has the name of the program on top, put there by the kernel; the others' their thread block, put
    there by the C library.
    """
    if facts.thread is None or facts.pid is None:
        return None
    mark = facts.image.auxv.get(AT_EXECFN, 0) if facts.thread.tid == facts.pid else state.tls
    segment = facts.image.segments.find(mark) if mark else None
    return segment if segment is not None and allows(segment, PF_W) and facts.file(mark) is None else None


def _next_accessible(facts: CrashFacts, address: int) -> Segment | None:
    """Return the first mapping above *address* that may be accessed, behind at most a guard."""
    segment = facts.image.segments.after(address)
    if segment is not None and not is_accessible(segment):
        segment = facts.image.segments.after(segment.start)
    return segment if segment is not None and is_accessible(segment) else None
