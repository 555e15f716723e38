"""
libdw of elfutils, by ctypes. Runs in the unwinding process only, which has the standard library and nothing else.

Source: elfutils/libdwfl.h, elfutils/libdw.h, libelf.h (elfutils 0.188).
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

LIBRARY = "libdw.so.1"
CXX_LIBRARY = "libstdc++.so.6"
DEMANGLE = "__cxa_demangle"
OK, ABORT = 0, 1
ELF_C_READ_MMAP = 8
EV_CURRENT = 1
NO_FILE = -1

FindElf = CFUNCTYPE(c_int, c_void_p, c_void_p, c_char_p, c_uint64, c_void_p, c_void_p)
FindDebugInfo = CFUNCTYPE(c_int, c_void_p, c_void_p, c_char_p, c_uint64, c_char_p, c_char_p, c_uint, c_void_p)
ThreadCallback = CFUNCTYPE(c_int, c_void_p, c_void_p)
FrameCallback = CFUNCTYPE(c_int, c_void_p, c_void_p)


class Callbacks(ctypes.Structure):
    """``Dwfl_Callbacks``."""

    _fields_ = (
        ("find_elf", FindElf),
        ("find_debuginfo", FindDebugInfo),
        ("section_address", c_void_p),
        ("debuginfo_path", c_void_p),
    )


class Die(ctypes.Structure):
    """``Dwarf_Die``."""

    _fields_ = (("addr", c_void_p), ("cu", c_void_p), ("abbrev", c_void_p), ("padding", c_long))


class Attribute(ctypes.Structure):
    """``Dwarf_Attribute``."""

    _fields_ = (("code", c_uint), ("form", c_uint), ("valp", c_void_p), ("cu", c_void_p))


class Symbol(ctypes.Structure):
    """``GElf_Sym``."""

    _fields_ = (("name", c_uint), ("rest", ctypes.c_ubyte * 4), ("value", c_uint64), ("size", c_uint64))


ADDRESS = POINTER(c_uint64)
PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "elf_version": (c_uint, (c_uint,)),
    "elf_begin": (c_void_p, (c_int, c_int, c_void_p)),
    "dwfl_begin": (c_void_p, (POINTER(Callbacks),)),
    "dwfl_report_begin": (None, (c_void_p,)),
    "dwfl_report_module": (c_void_p, (c_void_p, c_char_p, c_uint64, c_uint64)),
    "dwfl_report_end": (c_int, (c_void_p, c_void_p, c_void_p)),
    "dwfl_core_file_attach": (c_int, (c_void_p, c_void_p)),
    "dwfl_getthreads": (c_int, (c_void_p, ThreadCallback, c_void_p)),
    "dwfl_thread_tid": (c_int, (c_void_p,)),
    "dwfl_thread_getframes": (c_int, (c_void_p, FrameCallback, c_void_p)),
    "dwfl_frame_pc": (c_bool, (c_void_p, ADDRESS, POINTER(c_bool))),
    "dwfl_errmsg": (c_char_p, (c_int,)),
    "dwfl_addrmodule": (c_void_p, (c_void_p, c_uint64)),
    "dwfl_module_info": (c_char_p, (c_void_p, *(c_void_p,) * 7)),
    "dwfl_module_addrinfo": (
        c_char_p,
        (c_void_p, c_uint64, ADDRESS, POINTER(Symbol), POINTER(c_uint), POINTER(c_void_p), ADDRESS),
    ),
    "dwfl_module_addrdie": (c_void_p, (c_void_p, c_uint64, ADDRESS)),
    "dwfl_module_getsrc": (c_void_p, (c_void_p, c_uint64)),
    "dwfl_lineinfo": (c_char_p, (c_void_p, ADDRESS, POINTER(c_int), c_void_p, c_void_p, c_void_p)),
    "dwarf_getscopes": (c_int, (c_void_p, c_uint64, POINTER(POINTER(Die)))),
    "dwarf_getscopes_die": (c_int, (POINTER(Die), POINTER(POINTER(Die)))),
    "dwarf_haspc": (c_int, (c_void_p, c_uint64)),
    "dwarf_tag": (c_int, (POINTER(Die),)),
    "dwarf_diename": (c_char_p, (POINTER(Die),)),
    "dwarf_attr": (c_void_p, (POINTER(Die), c_uint, POINTER(Attribute))),
    "dwarf_attr_integrate": (c_void_p, (POINTER(Die), c_uint, POINTER(Attribute))),
    "dwarf_formstring": (c_char_p, (POINTER(Attribute),)),
    "dwarf_formudata": (c_int, (POINTER(Attribute), ADDRESS)),
    "dwarf_getsrcfiles": (c_int, (c_void_p, POINTER(c_void_p), POINTER(c_size_t))),
    "dwarf_filesrc": (c_char_p, (c_void_p, c_size_t, c_void_p, c_void_p)),
}


def load(name: str = LIBRARY) -> Any:
    """Return the library with the types of its functions; raise `OSError` if it is not installed."""
    library: Any = ctypes.CDLL(name)
    for function, (result, arguments) in PROTOTYPES.items():
        entry = getattr(library, function)
        entry.restype, entry.argtypes = result, arguments
    library.elf_version(EV_CURRENT)
    return library


class Demangler:
    """Turns the linker's names of C++ into those of the source, where libstdc++ is installed."""

    def __init__(self) -> None:
        self._entry: Any = None
        self._loaded = False

    def __call__(self, name: bytes) -> bytes:
        """Return *name* demangled, or as it is."""
        if not name.startswith(b"_Z"):
            return name
        if not self._loaded:
            self._load()
        if self._entry is None:
            return name
        made = self._entry(name, None, None, None)
        if not made:
            return name
        text = ctypes.string_at(made)
        free(made)
        return text

    def _load(self) -> None:
        self._loaded = True
        try:
            self._entry = getattr(ctypes.CDLL(CXX_LIBRARY), DEMANGLE)
        except (OSError, AttributeError):
            return
        self._entry.restype, self._entry.argtypes = c_void_p, (c_char_p, c_void_p, c_void_p, c_void_p)


def free(address: Any) -> None:
    """Give back what the libraries have allocated by malloc(3)."""
    _free(address)


_free = ctypes.CDLL(None).free
_free.restype, _free.argtypes = None, (c_void_p,)
