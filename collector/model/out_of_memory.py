"""The sentence about a process that the kernel killed for memory."""

from __future__ import annotations

KILLED = "killed by the kernel for memory"
"""How it begins."""

_REASONS = {
    "Memory cgroup out of memory": ": its memory cgroup, or one above it, reached its limit",
    "Out of memory": ", on behalf of the whole machine, or of the nodes that it may use",
}


def killed_for_memory(said: str | None) -> str:
    """Return it; *said* is how the kernel's line begins, as far as it says why. Source: mm/oom_kill.c"""
    return KILLED + _REASONS.get(said or "", "")
