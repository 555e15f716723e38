"""
A FUSE file system that does not answer: the raw protocol on ``/dev/fuse``, in a separate process.

``python tests/hanging_fuse.py MOUNTPOINT`` mounts, prints ``ready``, and serves until its standard
input ends; then it aborts the connection, which releases all waiters, and unmounts. It has three files:

``slow``   opens, and never answers a read.
``dirty``  answers reads with zeros and never answers a write: a process that unmaps a dirty page of it sleeps
           with its ``mmap_lock`` held.
``text``   answers everything.

Source: Documentation/filesystems/fuse.rst, include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 16, 17, 18, 25, 26
BATCH_FORGET = 42
SIZE = 1 << 20
ROOT = 1
FILES = {b"slow": 2, b"dirty": 3, b"text": 4}
MNT_DETACH, MS_NOSUID, MS_NODEV = 2, 2, 4


def attributes(node: int) -> bytes:
    """Return ``struct fuse_attr`` of the root or of a file."""
    mode = 0o40755 if node == ROOT else 0o100666
    return struct.pack("<6Q10I", node, SIZE, SIZE // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int, payload: bytes) -> bytes | int | None:
    """Return the body of the answer, an errno, or ``None`` for no answer at all."""
    if opcode == INIT:
        return struct.pack("<IIII HH I I HH 8I", 7, 31, 0, 0, 16, 12, 1 << 17, 1, 32, 0, *([0] * 8))
    if opcode == LOOKUP:
        found = FILES.get(payload.rstrip(b"\0"))
        return struct.pack("<QQQQII", found, 0, 3600, 3600, 0, 0) + attributes(found) if found else errno.ENOENT
    if opcode == GETATTR:
        return struct.pack("<QII", 3600, 0, 0) + attributes(node)
    if opcode == OPEN:
        return struct.pack("<QII", 0, 0, 0)
    if opcode == STATFS:
        return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
    if opcode == READ:
        size = struct.unpack_from("<QQI", payload)[2]
        return None if node == FILES[b"slow"] else bytes(size)
    if opcode == WRITE:
        return None if node == FILES[b"dirty"] else struct.pack("<II", struct.unpack_from("<QQI", payload)[2], 0)
    return b"" if opcode in {RELEASE, FLUSH} else errno.ENOSYS


def serve(fuse: int) -> None:
    """Answer requests until standard input ends."""
    poll = select.poll()
    poll.register(fuse, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if 0 in ready:
            return
        request = os.read(fuse, 1 << 18)
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in {FORGET, BATCH_FORGET}:
            continue
        body = answer(opcode, node, request[40:])
        if body is not None:
            error, data = (-body, b"") if isinstance(body, int) else (0, body)
            os.write(fuse, struct.pack("<IiQ", 16 + len(data), error, unique) + data)


def main(mountpoint: str) -> None:
    """Mount, serve, unmount."""
    libc = ctypes.CDLL(None, use_errno=True)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hanging", mountpoint.encode(), b"fuse", MS_NOSUID | MS_NODEV, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        print("ready", flush=True)
        serve(fuse)
    finally:
        os.close(fuse)  # aborts the connection
        libc.umount2(mountpoint.encode(), MNT_DETACH)


@contextlib.contextmanager
def mounted(mountpoint: Path) -> Iterator[Path]:
    """Mount it during the block; afterwards release all processes that hang on it."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(mountpoint)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that it unmounts also when the test is interrupted
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield mountpoint
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


WEDGE = """
import ctypes, mmap, os, sys, threading
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
os.setuid(int(os.environ["WEDGED_UID"]))
fd = os.open(sys.argv[1], os.O_RDWR)
address = libc.mmap(None, 4096, 3, mmap.MAP_SHARED, fd, 0)
ctypes.memset(address, 1, 1)
print("ready", flush=True)
# A new mapping in place of the dirty one: the kernel writes the page back under mmap_lock, held for writing.
libc.mmap(address, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)
"""


@contextlib.contextmanager
def wedged_process(mountpoint: Path, *arguments: str, user: int | None = None) -> Iterator[int]:
    """Yield the PID of a process that sleeps holding its ``mmap_lock``; it ends with the file system."""
    process = subprocess.Popen(
        [sys.executable, "-c", WEDGE, str(mountpoint / "dirty"), *arguments],
        env=os.environ | {"WEDGED_UID": str(os.getuid() if user is None else user)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        wait_for_state(process.pid, "D")
        yield process.pid
    finally:
        process.kill()
        process.stdout.close()


def wait_for_state(pid: int, state: str) -> None:
    """Wait until a process is in *state*, a letter of proc_pid_stat(5)."""
    for _ in range(500):
        if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == state.encode():
            return
        select.select([], [], [], 0.01)
    raise AssertionError(f"process {pid} is not in state {state}")


if __name__ == "__main__":
    main(sys.argv[1])
