"""
Signals by the number that they have on other machines.

Source: arch/*/include/uapi/asm/signal.h, and siginfo.h for the codes of MIPS (Linux 6.18).
"""

from __future__ import annotations

from collector.model.signals import signal_name

MIPS = {
    7: "SIGEMT", 10: "SIGBUS", 12: "SIGSYS", 16: "SIGUSR1", 17: "SIGUSR2", 18: "SIGCHLD", 19: "SIGPWR",
    20: "SIGWINCH", 21: "SIGURG", 22: "SIGIO", 23: "SIGSTOP", 24: "SIGTSTP", 25: "SIGCONT", 26: "SIGTTIN",
    27: "SIGTTOU", 28: "SIGVTALRM", 29: "SIGPROF", 30: "SIGXCPU", 31: "SIGXFSZ",
}  # fmt: skip
ALPHA_AND_SPARC = {
    7: "SIGEMT", 10: "SIGBUS", 12: "SIGSYS", 16: "SIGURG", 17: "SIGSTOP", 18: "SIGTSTP", 19: "SIGCONT", 20: "SIGCHLD",
    21: "SIGTTIN", 22: "SIGTTOU", 23: "SIGIO", 24: "SIGXCPU", 25: "SIGXFSZ", 26: "SIGVTALRM", 27: "SIGPROF",
    28: "SIGWINCH", 29: "SIGPWR", 30: "SIGUSR1", 31: "SIGUSR2",
}  # fmt: skip
PARISC = {
    7: "SIGSTKFLT", 10: "SIGBUS", 12: "SIGXCPU", 16: "SIGUSR1", 17: "SIGUSR2", 18: "SIGCHLD", 19: "SIGPWR",
    20: "SIGVTALRM", 21: "SIGPROF", 22: "SIGIO", 23: "SIGWINCH", 24: "SIGSTOP", 25: "SIGTSTP", 26: "SIGCONT",
    27: "SIGTTIN", 28: "SIGTTOU", 29: "SIGURG", 30: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip
SIGNALS = {"mips": MIPS, "alpha": ALPHA_AND_SPARC, "sparc": ALPHA_AND_SPARC, "parisc": PARISC}
MIPS_CODES = {-2: "SI_ASYNCIO", -3: "SI_TIMER", -4: "SI_MESGQ"}


def name_on(machine: str, number: int) -> str:
    """Return the name of signal *number* on *machine*: 10 is SIGUSR1 on x86 and SIGBUS on MIPS."""
    return SIGNALS.get(machine, {}).get(number) or signal_name(number)
