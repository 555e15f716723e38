"""Signatures are plain text over frames: which of these count, and what names them."""

from __future__ import annotations

import pytest

from collector.collectors.core.frames import END, MAX_FRAMES, Frame, Walk
from collector.collectors.core.module import Module
from collector.collectors.core.notes import CoreSignal
from collector.collectors.core.signature import signature_of
from collector.collectors.core.unwind_table import FunctionEntry

ENGINE = Module(path=b"/opt/engine|2/bin/engine", start=0x1000, end=0x9000, build_id="aa")
LIBC = Module(path=b"/usr/lib/libc.so.6", start=0x20000, end=0x30000, build_id="cc")
PLUGIN = Module(path=b"/opt/lib/libplug-1.2.so.3.4", start=0x40000, end=0x50000)
FAULT = CoreSignal(number=11, name="SIGSEGV", code=1, code_name="SEGV_MAPERR", fault_address="0x0")
ABORT = CoreSignal(number=6, name="SIGABRT", code=-6, code_name="SI_TKILL")
SENT = CoreSignal(number=11, name="SIGSEGV", code=0, code_name="SI_USER")


def function(start: int, size: int) -> FunctionEntry:
    return FunctionEntry(
        start=start, size=size, is_signal=False, code_align=1, data_align=-8, return_register=16, initial=b"",
        program=b"",
    )  # fmt: skip


def at(module: Module, offset: int, *, size: int = 0, handled: int = 0) -> Frame:
    """Return a frame 8 bytes into its function, if that has a *size*."""
    address = module.start + offset
    return Frame(address, module, function(address - 8, size) if size else None, handled)


def named(signal: CoreSignal, *frames: Frame, overflow: bool = False) -> tuple[str, str]:
    found = signature_of(signal, "engine", Walk(frames, END), overflow=overflow)
    assert found.hash.startswith("sig1:")
    assert len(found.hash) == 5 + 32
    return found.text, found.key


@pytest.mark.parametrize(
    ("signal", "frames", "text", "key"),
    [
        (FAULT, [at(ENGINE, 0x10, size=99), at(ENGINE, 0x20)], "SIGSEGV/MAPERR|aa+0x10|aa+0x20", "engine+0x8/0x63"),
        (FAULT, [at(LIBC, 1), at(ENGINE, 0x20)], "SIGSEGV/MAPERR|cc+0x1|aa+0x20", "engine+0x20"),
        (FAULT, [at(LIBC, 1), at(LIBC, 2)], "SIGSEGV/MAPERR|cc+0x1|cc+0x2", "libc.so+0x1"),
        (FAULT, [Frame(5, None), at(ENGINE, 0x20)], "SIGSEGV/MAPERR|?|aa+0x20", "engine+0x20"),
        (FAULT, [at(PLUGIN, 0x20)], "SIGSEGV/MAPERR|libplug.so+0x20", "libplug.so+0x20"),
        (FAULT, [at(ENGINE, 0x10, size=9), at(ENGINE, 0x20, size=99), at(ENGINE, 0x30)],
         "SIGSEGV/MAPERR|aa+0x10|aa+0x20|aa+0x30", "engine+0x8/0x9<engine+0x8/0x63"),
        (ABORT, [at(LIBC, 1), at(LIBC, 2), at(ENGINE, 0x20)], "SIGABRT/SENT|aa+0x20", "engine+0x20"),
        (SENT, [at(LIBC, 1), at(ENGINE, 0x20), at(LIBC, 3)], "SIGSEGV/SENT|aa+0x20|cc+0x3", "engine+0x20"),
        (ABORT, [at(LIBC, 1), at(ENGINE, 0x20), at(LIBC, 3, handled=11), at(LIBC, 4), at(ENGINE, 0x30)],
         "SIGABRT/SENT|cc+0x4|aa+0x30", "engine+0x30"),
        (ABORT, [at(LIBC, 1), at(ENGINE, 0x20), at(LIBC, 3, handled=6), at(LIBC, 4), at(ENGINE, 0x30)],
         "SIGABRT/SENT|aa+0x30", "engine+0x30"),
        (ABORT, [at(LIBC, 1), at(ENGINE, 0x20), at(LIBC, 3, handled=14), at(ENGINE, 0x30)],
         "SIGABRT/SENT|aa+0x20|cc+0x3|aa+0x30", "engine+0x20"),
    ],
)  # fmt: skip
def test_signature_begins_where_it_went_wrong(signal: CoreSignal, frames: list[Frame], text: str, key: str) -> None:
    """Not in abort(), raise() or a handler of the crash itself; a timer's handler that aborts is the one to blame."""
    assert named(signal, *frames) == (text, f"engine|{signal.name}|{key}")


def test_signature_has_at_most_five_frames() -> None:
    assert named(FAULT, *(at(ENGINE, offset) for offset in range(9)))[0].count("|") == 5


def test_signature_of_a_panic_reaches_whoever_panicked() -> None:
    """The frames of a runtime that end in a call which does not return are the same for all of a program."""
    panic = [at(LIBC, 1), *(at(ENGINE, 0x100 * number, size=8) for number in range(1, 7))]
    texts = {named(ABORT, *panic, at(ENGINE, 0x900 + bug, size=99), at(ENGINE, 0xA00))[0] for bug in range(2)}
    assert len(texts) == 2
    endless = [at(ENGINE, 0x100 * number, size=8) for number in range(1, 60)]
    assert named(ABORT, *endless)[0].count("|") == 16


@pytest.mark.parametrize(
    ("signal", "frames", "end"),
    [
        (FAULT, [Frame(5, None)], "it is not where a call leads to"),
        (FAULT, [Frame(5, None), Frame(6, None)], END),  # code made at run time, or no list of mapped files
        (ABORT, [at(LIBC, 1), at(LIBC, 2)], END),
        (ABORT, [at(LIBC, 1)], "its stack is not in the core"),
        (ABORT, [at(ENGINE, 1)], "no unwind table"),  # a static program: its own raise()
    ],
)
def test_signature_is_none_where_all_crashes_have_the_same(signal: CoreSignal, frames: list[Frame], end: str) -> None:
    """Two bugs must not have one name: better none."""
    found = signature_of(signal, "engine", Walk(tuple(frames), end))
    assert found == ("", "", "", f"no frame tells where it was: {end}")


def test_coarse_key_is_none_without_code() -> None:
    data = at(ENGINE, 0x10)._replace(in_code=False)
    assert named(FAULT, data) == ("SIGSEGV/MAPERR|aa+0x10", "")


@pytest.mark.parametrize("first", [0, 1, 2])
def test_signature_of_a_recursion_is_its_cycle(first: int) -> None:
    """Of three functions that call each other, wherever in them the stack ended, and whatever was called last."""
    cycle = [at(ENGINE, 0x300), at(ENGINE, 0x100), at(ENGINE, 0x200)]
    frames = [at(ENGINE, 0x700), *(cycle[(first + number) % 3] for number in range(MAX_FRAMES - 1))]
    expected = "SIGSEGV/MAPERR|recursion|aa+0x100|aa+0x200|aa+0x300"
    assert named(FAULT, *frames, overflow=True)[0] == expected
    assert named(FAULT, *frames)[0] != expected  # deep, but it died of something else


def test_signature_says_why_it_is_short() -> None:
    walk = Walk((at(ENGINE, 0x10),), "no unwind table")
    assert signature_of(FAULT, "engine", walk).reason == "it has 1 frames: no unwind table"
    assert signature_of(FAULT, "engine", Walk((at(PLUGIN, 1),), END)).reason.startswith("a build-id is not in the core")
    assert signature_of(FAULT, "engine", Walk((at(ENGINE, 1), Frame(5, None)), END)).reason.startswith(
        "some of its code"
    )
    assert signature_of(FAULT, "engine", Walk((at(ENGINE, 1),), END)).reason == ""
    assert signature_of(None, "engine", walk) == ("", "", "", "its signal is not known")


def test_coarse_key_has_three_parts_whatever_the_names_are() -> None:
    frame = Frame(0x1010, Module(path=b"/x/a|b\n", start=0x1000, end=0x2000, build_id="aa"))
    assert signature_of(FAULT, "a|b", Walk((frame,), END)).key == r"a_b|SIGSEGV|a_b\x0a+0x10"
