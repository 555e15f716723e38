"""Functions, files and lines of addresses, by libdw. Runs in the unwinding process only."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, byref, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from collector.report.libdw import Attribute, Demangler, Die, Symbol, free

NAME_BYTES = 512
MAX_INLINED = 32
MAX_CACHED = 65_536

DW_TAG_INLINED_SUBROUTINE, DW_TAG_SUBPROGRAM = 0x1D, 0x2E
DW_AT_CALL_FILE, DW_AT_CALL_LINE, DW_AT_LINKAGE_NAME, DW_AT_MIPS_LINKAGE_NAME = 0x58, 0x59, 0x6E, 0x2007

Row = tuple[int, int, str, str, int, bool]
"""Number of the module (-1: none), offset from its beginning or the address, function, file, line, is it inlined."""


class Symbolizer:
    """
    Looks addresses up, each once.

    Args:
        library: libdw.
        dwfl: The session.
    """

    def __init__(self, library: Any, dwfl: Any) -> None:
        self._library = library
        self._dwfl = dwfl
        self._demangle = Demangler()
        self._known: dict[tuple[int, bool], list[Row]] = {}

    def rows(self, pc: int, *, is_call: bool) -> list[Row]:
        """Return the frames at *pc*, inlined ones first; *is_call*: it is where a call returns to."""
        key = (pc, is_call)
        if key not in self._known:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            self._known[key] = self._look_up(pc, max(0, pc - is_call))
        return self._known[key]

    def _look_up(self, pc: int, at: int) -> list[Row]:
        module = self._library.dwfl_addrmodule(self._dwfl, at)
        if not module:
            return [(-1, pc, "", "", 0, False)]
        start = c_uint64()
        name = self._library.dwfl_module_info(module, None, byref(start), None, None, None, None, None)
        number, offset = int(name or b"-1"), pc - start.value
        unit, bias = self._unit(module, at)
        source, line = self._line(module, at) if unit else ("", 0)
        rows: list[Row] = []
        for function, is_inlined, call_source, call_line in self._scopes(unit, at - bias) if unit else ():
            rows.append((number, offset, function, source, line, is_inlined))
            source, line = call_source, call_line
        if rows and not rows[-1][5]:
            return rows
        return [*rows, (number, offset, self._symbol(module, at), source, line, False)]

    def _unit(self, module: Any, at: int) -> tuple[Any, int]:
        """
        Return the compilation unit that holds an address, and what the address is greater by than in its file.

        libdw also finds one that only lies around the address: the program's own for ``_start``.
        """
        bias = c_uint64()
        unit = self._library.dwfl_module_addrdie(module, at, byref(bias))
        holds = bool(unit) and self._library.dwarf_haspc(unit, at - bias.value) > 0
        return (unit if holds else None), bias.value

    def _symbol(self, module: Any, at: int) -> str:
        symbol, offset, section = Symbol(), c_uint64(), c_uint()
        name = self._library.dwfl_module_addrinfo(module, at, byref(offset), byref(symbol), byref(section), None, None)
        return self._text(name)

    def _line(self, module: Any, at: int) -> tuple[str, int]:
        found = self._library.dwfl_module_getsrc(module, at)
        if not found:
            return "", 0
        line = c_int()
        source = self._library.dwfl_lineinfo(found, None, byref(line), None, None, None)
        return _cut(source), max(0, line.value)

    def _scopes(self, unit: Any, at: int) -> Iterator[tuple[str, bool, str, int]]:
        """Yield the functions at an address, inlined ones first, each with where it was called if it is inlined."""
        inner: Any = POINTER(Die)()
        if self._library.dwarf_getscopes(unit, at, byref(inner)) <= 0:
            return
        # Those of an inlined function are of where it was written; what is asked for is where it stands.
        outer: Any = POINTER(Die)()
        count = self._library.dwarf_getscopes_die(inner, byref(outer))
        free(ctypes.cast(inner, c_void_p))
        if count <= 0:
            return
        dies = [outer[number] for number in range(min(count, MAX_INLINED))]
        try:
            for die in dies:
                tag = self._library.dwarf_tag(byref(die))
                if tag == DW_TAG_INLINED_SUBROUTINE:
                    yield (self._name(die), True, *self._call(unit, die))
                elif tag == DW_TAG_SUBPROGRAM:
                    yield self._name(die), False, "", 0
                    return
        finally:
            free(ctypes.cast(outer, c_void_p))

    def _name(self, die: Die) -> str:
        attribute = Attribute()
        for kind in (DW_AT_LINKAGE_NAME, DW_AT_MIPS_LINKAGE_NAME):
            if self._library.dwarf_attr_integrate(byref(die), kind, byref(attribute)):
                return self._text(self._library.dwarf_formstring(byref(attribute)))
        return self._text(self._library.dwarf_diename(byref(die)))

    def _call(self, unit: Any, die: Die) -> tuple[str, int]:
        number, line = self._number(die, DW_AT_CALL_FILE), self._number(die, DW_AT_CALL_LINE)
        files, count = c_void_p(), c_size_t()
        if self._library.dwarf_getsrcfiles(unit, byref(files), byref(count)) != 0 or not 0 <= number < count.value:
            return "", 0
        return _cut(self._library.dwarf_filesrc(files, number, None, None)), max(0, line)

    def _number(self, die: Die, kind: int) -> int:
        attribute, value = Attribute(), c_uint64()
        if not self._library.dwarf_attr(byref(die), kind, byref(attribute)):
            return -1
        return -1 if self._library.dwarf_formudata(byref(attribute), byref(value)) else value.value

    def _text(self, name: bytes | None) -> str:
        return _cut(self._demangle(name[:NAME_BYTES])) if name else ""


def _cut(name: bytes | None) -> str:
    name = name or b""
    return (name if len(name) <= NAME_BYTES else name[: NAME_BYTES - 3] + b"...").decode("utf-8", "replace")
