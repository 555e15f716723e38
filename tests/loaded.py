"""A process as large ones are: many threads, mappings and descriptors, deep in the tree of cgroups."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cgroup_tree import cgroups, hierarchy_with, let_go, waiting

from collector.host.cgroup_membership import hierarchies
from collector.host.files import Host

THREADS, MAPPINGS, DESCRIPTORS, LEVELS = 200, 2_000, 500, 20
PROGRAM = f"""
import mmap, os, sys, threading
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range({DESCRIPTORS})]
kept = [mmap.mmap(-1, 4096 * (2 + n % 2), prot=mmap.PROT_READ | (n % 2 and mmap.PROT_WRITE)) for n in range({MAPPINGS})]
over = threading.Event()
for _ in range({THREADS}):
    threading.Thread(target=over.wait, daemon=True).start()
print("loaded", flush=True)
sys.stdin.read()
os._exit(0)
"""


@contextmanager
def loaded_process() -> Iterator[int]:
    """Yield the PID of such a process; in a cgroup with `LEVELS` above it."""
    names = [f"level-{number}" for number in range(LEVELS)]
    with ExitStack() as stack:
        first = stack.enter_context(cgroups(hierarchy_with(""), *names))
        process = stack.enter_context(waiting(first[-1], sys.executable, "-S", "-c", PROGRAM))
        for one in hierarchies(Host()):
            if one.controllers and "cpuset" not in one.controllers:  # that one wants its processors and nodes set first
                made = stack.enter_context(cgroups(one, *names))
                (made[-1] / "cgroup.procs").write_text(str(process.pid), encoding="utf-8")
        let_go(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"loaded\n"
        yield process.pid
