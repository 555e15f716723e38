"""
The C++ exception that a process aborted with: nobody caught it, or whoever did gave up.

The C++ library prints it and keeps nothing, but the exception itself lies on the heap, and the stack leads to it.

Source: ``struct __cxa_refcounted_exception`` in libsupc++/unwind-cxx.h; ``_Rep_base`` of the strings that exceptions
hold, in bits/cow_string.h (GCC 12; the same since 5).
"""

from __future__ import annotations

import re
import struct

from collector.collectors.core.diagnosis_facts import CrashFacts
from collector.host.core_segments import PF_W

STACK_BYTES = 8192
"""How far up the stack it is looked for: measured, 150 to 900 bytes."""

MAX_TRIED = 256
MAX_TEXT_BYTES = 1024
GNU_CLASS = b"\0++CCUNG"
"""``_Unwind_Exception.exception_class``, in memory."""

# Before the header for unwinding, which the stack leads to, and behind it.
BEFORE_BYTES, HEADER_BYTES = 96, 32
TYPE_AT, HANDLERS_AT = 16, 56
BUILT_IN = {"i": "int", "j": "unsigned int", "l": "long", "m": "unsigned long", "b": "bool", "d": "double",
            "PKc": "const char*", "Pc": "char*"}  # fmt: skip
STRING_HEADER_BYTES = 24


def cpp_exception(facts: CrashFacts) -> tuple[str, bytes] | None:
    """
    Return type and text of the exception that is being handled; each is empty if it is not known.

    That of the type's name lies in a library, so it is mostly not in a core file.
    """
    layout = facts.image.layout
    if facts.state is None or layout.word != 8 or layout.order != "<":
        return None
    words = facts.image.words(facts.state.sp & -8, STACK_BYTES // 8)
    aligned = [word for word in dict.fromkeys(words) if word > BEFORE_BYTES and not word % 16]
    writable = (word for word in aligned if (found := facts.image.segments.find(word)) and found.flags & PF_W)
    for _, at in zip(range(MAX_TRIED), writable, strict=False):
        if facts.image.memory.read(at, 8) == GNU_CLASS and (raw := _handled(facts, at)):
            return _type_name(facts, raw), _text(facts, at + HEADER_BYTES)
    return None


def _handled(facts: CrashFacts, at: int) -> bytes:
    """
    Return what precedes an exception's header, if one handler has it; else nothing.

    One that was dealt with may still be there, with its handler: but malloc has written over its first words, of which
    the C++ library uses 4 bytes and leaves 12 as zeros.
    """
    raw = facts.image.memory.read(at - BEFORE_BYTES, BEFORE_BYTES)
    if len(raw) < BEFORE_BYTES:
        return b""
    references, *padding = struct.unpack_from("<4i", raw)
    (handlers,) = struct.unpack_from("<i", raw, HANDLERS_AT)
    return raw if references >= 1 and not any(padding) and handlers == 1 else b""


def _type_name(facts: CrashFacts, raw: bytes) -> str:
    (info,) = struct.unpack_from("<Q", raw, TYPE_AT)
    words = facts.image.words(info, 2)  # of std::type_info: its table of functions, its name
    name, end, _ = facts.image.memory.read(words[1], MAX_TEXT_BYTES).partition(b"\0") if len(words) == 2 else (b"",) * 3
    return readable_type(name.decode("ascii")) if end and name and re.fullmatch(rb"[\w*.]+", name, re.ASCII) else ""


def readable_type(name: str) -> str:
    """Return the name of a type as in the source; one that is not simple as the compiler writes it."""
    name = name.removeprefix("*")
    inner = name[1:-1] if name.startswith("N") and name.endswith("E") else name
    parts = ["std"] if inner.startswith("St") else []
    at = 2 if parts else 0
    while found := re.compile(r"([0-9]{1,3})").match(inner, at):
        end = found.end() + int(found[1])
        parts.append(inner[found.end() : end])
        at = end
    whole = at == len(inner) and len(parts) > (inner.startswith("St"))
    return "::".join(parts) if whole else BUILT_IN.get(name, name)


def _text(facts: CrashFacts, at: int) -> bytes:
    """Return the text of a standard exception: its string counts its references, its length and its room."""
    words = facts.image.words(at, 2)
    if len(words) < 2:
        return b""
    raw = facts.image.memory.read(max(0, words[1] - STRING_HEADER_BYTES), STRING_HEADER_BYTES)
    if len(raw) < STRING_HEADER_BYTES:
        return b""
    length, room, references = struct.unpack_from("<QQi", raw)
    if not 0 < length <= min(room, MAX_TEXT_BYTES) or references < 0:
        return b""
    text = facts.image.memory.read(words[1], length + 1)
    return text[:length] if len(text) == length + 1 and text[-1] == 0 and b"\0" not in text[:length] else b""
