"""A program that crashes with one segment of each kind, for the tests of what is taken from a process that is held."""

from __future__ import annotations

import sys

from collector.collectors.shm.segment_names import ANONYMOUS

SIZE = 8192

PROGRAM = """
import ctypes, mmap, os, sys
SIZE, name = 8192, sys.argv[1]
kept = []

def shared(fd, letter):
    os.ftruncate(fd, SIZE)
    kept.append(mmap.mmap(fd, SIZE))
    kept[-1][:] = letter * SIZE

def segment(name):
    return os.open("/dev/shm/" + name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

shared(segment(name), b"n")
shared(segment(name + ".unlinked"), b"u")
os.unlink("/dev/shm/" + name + ".unlinked")
shared(os.memfd_create("mapped"), b"m")
os.write(os.memfd_create("only open"), b"o" * SIZE)
kept.append(mmap.mmap(-1, SIZE))
kept[-1][:] = b"a" * SIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
system_v = libc.shmget(0, SIZE, 0o1600)
ctypes.memset(libc.shmat(system_v, None, 0), ord("s"), SIZE)
libc.shmctl(system_v, 0, None)  # IPC_RMID: it goes with its last user
if sys.argv[2:]:
    import threading, time
    threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), 11))).start()
    libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2), of the first thread alone
os.kill(os.getpid(), 11)
"""


def program(name: str) -> list[str]:
    """Return a command that crashes with one segment of each kind; the named one is called *name*."""
    return [sys.executable, "-I", "-c", PROGRAM, name]


def without_first_thread(name: str) -> list[str]:
    """Return such a command, whose first thread has exited when another one crashes."""
    return [*program(name), "without its first thread"]


def expected(name: str) -> dict[str, bytes]:
    """Return what its segments are called, and hold."""
    letters = {
        name: b"n",
        f"{name}.unlinked": b"u",
        "memfd:mapped": b"m",
        "memfd:only open": b"o",
        ANONYMOUS: b"a",
        "SYSV00000000": b"s",
    }
    return {one: letter * SIZE for one, letter in letters.items()}


def in_namespaces(command: list[str]) -> list[str]:
    """Return *command* as run in PID and mount namespaces of its own, with its own ``/dev/shm``."""
    script = 'mount -t tmpfs tmpfs /dev/shm && "$@"; exit 0'  # more than one command: the shell stays, as PID 1
    return ["unshare", "--fork", "--pid", "--kill-child", "--mount", "sh", "-c", script, "sh", *command]
