"""What the notes of a core say: signal, process, threads with their registers."""

from __future__ import annotations

import msgspec

from collector.collectors.core.machine_signals import MIPS_CODES, name_on
from collector.host.elfcore import Layout

# Order of struct user_regs_struct (x86-64, i386) and user_pt_regs (aarch64). Source: sys/user.h.
REGISTERS = {
    "x86_64": ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
               "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
    "i386": ("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs",
             "eflags", "esp", "ss"),
    "aarch64": (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate"),
    "arm": (*(f"r{number}" for number in range(13)), "sp", "lr", "pc", "cpsr", "orig_r0"),
}  # fmt: skip

# Of 64 bits in 32-bit cores too: x32 and ILP32.
WIDE_REGISTERS = frozenset({"x86_64", "aarch64"})

# Of the signals that come with an address, and of SIGSYS.
CODES = {
    "SIGILL": {1: "ILL_ILLOPC", 2: "ILL_ILLOPN", 3: "ILL_ILLADR", 4: "ILL_ILLTRP", 5: "ILL_PRVOPC", 6: "ILL_PRVREG",
               7: "ILL_COPROC", 8: "ILL_BADSTK", 9: "ILL_BADIADDR"},
    "SIGTRAP": {1: "TRAP_BRKPT", 2: "TRAP_TRACE", 3: "TRAP_BRANCH", 4: "TRAP_HWBKPT", 5: "TRAP_UNK"},
    "SIGBUS": {1: "BUS_ADRALN", 2: "BUS_ADRERR", 3: "BUS_OBJERR", 4: "BUS_MCEERR_AR", 5: "BUS_MCEERR_AO"},
    "SIGFPE": {1: "FPE_INTDIV", 2: "FPE_INTOVF", 3: "FPE_FLTDIV", 4: "FPE_FLTOVF", 5: "FPE_FLTUND", 6: "FPE_FLTRES",
               7: "FPE_FLTINV", 8: "FPE_FLTSUB", 14: "FPE_FLTUNK", 15: "FPE_CONDTRAP"},
    "SIGSEGV": {1: "SEGV_MAPERR", 2: "SEGV_ACCERR", 3: "SEGV_BNDERR", 4: "SEGV_PKUERR", 5: "SEGV_ACCADI",
                6: "SEGV_ADIDERR", 7: "SEGV_ADIPERR", 8: "SEGV_MTEAERR", 9: "SEGV_MTESERR", 10: "SEGV_CPERR"},
    "SIGSYS": {1: "SYS_SECCOMP", 2: "SYS_USER_DISPATCH"},
}  # fmt: skip
COMMON_CODES = {0: "SI_USER", 0x80: "SI_KERNEL", -1: "SI_QUEUE", -2: "SI_TIMER", -6: "SI_TKILL"}
SENT = frozenset({0, -1, -6})


class CoreSignal(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    The signal that the kernel delivered: a fault has an address, a signal sent by a process has a sender.

    *code* is ``None`` if only the number is known. *system_call* is the number of one that seccomp forbids.
    """

    number: int
    name: str
    code: int | None = None
    code_name: str = ""
    fault_address: str | None = None
    sender_pid: int | None = None
    sender_uid: int | None = None
    system_call: int | None = None


ARGUMENTS_BYTES = 80  # with the NUL: ELF_PRARGSZ


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    NT_PRPSINFO. IDs are those of the process's own PID and user namespace.

    *command* is its comm, *arguments* the first 79 bytes of its command line with spaces instead of NULs.
    """

    pid: int
    ppid: int
    uid: int
    gid: int
    command: bytes
    arguments: bytes


class CoreThread(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One thread, from NT_PRSTATUS; times in seconds, registers in hexadecimal by name.

    *frames*: the innermost first, each a module and an offset from its beginning: where the thread was, then where
    calls return to. *frames_end*: why there are no more, if they do not reach the thread's beginning.
    """

    tid: int
    signal: int
    pending: str
    blocked: str
    user_s: float
    system_s: float
    registers: dict[str, str]
    frames: tuple[str, ...] = ()
    frames_end: str = ""


def parse_signal(layout: Layout, desc: bytes) -> CoreSignal | None:
    """Parse NT_SIGINFO (``siginfo_t``); ``None`` if it is too short."""
    if len(desc) < 32:
        return None
    number, error, code = layout.unpack("iii", desc)
    name, code_names = name_on(layout.machine, number), COMMON_CODES
    if layout.machine == "mips":
        code = error  # __ARCH_HAS_SWAPPED_SIGINFO: the code comes before the errno
        code_names = COMMON_CODES | MIPS_CODES
    union = 16 if layout.word == 8 else 12
    code_name = code_names.get(code) or CODES.get(name, {}).get(code, "")
    signal = CoreSignal(number=number, name=name, code=code, code_name=code_name)
    if code in SENT:
        signal.sender_pid, signal.sender_uid = layout.unpack("iI", desc, union)
    elif name == "SIGSYS" and code_name in CODES[name].values():
        (signal.system_call,) = layout.unpack("i", desc, union + layout.word)
    elif name in CODES and name != "SIGSYS" and code > 0:  # others are of timers, queues and the like
        signal.fault_address = f"{layout.unpack('W', desc, union)[0]:#x}"
    return signal


def parse_process(layout: Layout, desc: bytes) -> ProcessInfo | None:
    """Parse NT_PRPSINFO (``struct elf_prpsinfo``); ``None`` if its size is not one of those known."""
    if layout.word == 8 and len(desc) == 136:
        ids, names = layout.unpack("IIiiii", desc, 16), 40
    elif layout.word == 4 and len(desc) == 124:  # 16-bit uid and gid: i386, arm
        ids, names = layout.unpack("HHiiii", desc, 8), 28
    elif layout.word == 4 and len(desc) == 128:
        ids, names = layout.unpack("IIiiii", desc, 8), 32
    else:
        return None
    uid, gid, pid, ppid, _, _ = ids
    return ProcessInfo(
        pid=pid,
        ppid=ppid,
        uid=uid,
        gid=gid,
        command=desc[names : names + 16].split(b"\0")[0],
        arguments=desc[names + 16 : names + 16 + ARGUMENTS_BYTES].split(b"\0")[0].rstrip(b" "),
    )


def parse_thread(layout: Layout, desc: bytes) -> CoreThread | None:
    """Parse NT_PRSTATUS (``struct elf_prstatus``); ``None`` if it is too short."""
    word = layout.word
    masks = _masks_at(layout)
    ids = masks + 2 * word
    times = ids + 16
    at = registers_at(layout)
    if len(desc) < at:
        return None
    signal = layout.unpack("h", desc, 12)[0]
    pending, blocked = layout.unpack("WW", desc, masks)
    (tid,) = layout.unpack("i", desc, ids)
    user_s, user_us, system_s, system_us = layout.unpack("WWWW", desc, times)
    names = REGISTERS.get(layout.machine, ())
    register = "Q" if layout.machine in WIDE_REGISTERS else "W"
    if len(desc) < at + len(names) * (8 if register == "Q" else word):
        names = ()
    values = layout.unpack(register * len(names), desc, at)
    return CoreThread(
        tid=tid,
        signal=signal,
        pending=f"{pending:#x}",
        blocked=f"{blocked:#x}",
        user_s=user_s + _microseconds(user_us) / 1e6,
        system_s=system_s + _microseconds(system_us) / 1e6,
        registers={name: f"{value:#x}" for name, value in zip(names, values, strict=True)},
    )


def registers_at(layout: Layout) -> int:
    """Return where ``struct elf_prstatus`` has the registers: behind four ids, and four times of two words each."""
    return _masks_at(layout) + 2 * layout.word + 16 + 8 * layout.word


def _masks_at(layout: Layout) -> int:
    return 14 if layout.machine == "m68k" else 16  # the signal is a short, and m68k aligns to two bytes


def _microseconds(word: int) -> int:
    """Return the microseconds of a timeval: before 5.6, 64-bit sparc and parisc had 32 bits of them, then padding."""
    return word >> 32 or word
