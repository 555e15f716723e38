from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from collecting import collect, context, manual
from hanging_fuse import mounted, wait_for_state
from held import held
from machine import need

from collector.collectors.network.network import Network
from collector.model.marker import MarkerKind, ProcessRef

PRELUDE = """
import ctypes, os, socket, sys, time
def say(*words):
    print(*words, flush=True)
    sys.stdin.readline()
"""
FULL = """
import fcntl, struct
control = socket.socket()
fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up
listening = socket.socket()
listening.bind(("127.0.0.1", 7001))
listening.listen(2)
reading = socket.create_connection(("127.0.0.1", 7001))
writing, _ = listening.accept()
writing.setblocking(False)
try:
    while True:
        writing.send(bytes(65536))
except BlockingIOError:
    pass
waiting = [socket.socket() for _ in range(6)]
for one in waiting:
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", 7001))
time.sleep(0.2)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::1", 7002))
udp.sendto(b"x" * 100, ("::1", 7002))
say("ready")
"""
CRASHES = """
left, right = socket.socketpair()
left.send(b"x" * 77)
named = socket.socket(socket.AF_UNIX)
named.bind(b"\\0held\\n" + str(os.getpid()).encode())
named.listen(3)
os.abort()
"""
FIRST_THREAD_GONE = """
import threading
left, right = socket.socketpair()
left.send(b"x" * 78)
threading.Thread(target=say, args=("ready",)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
# Sends from a mapping of a file whose server does not answer, and so holds the lock of its connection.
WEDGED = """
import mmap, threading
listening = socket.create_server(("127.0.0.1", 0))
stuck = socket.create_connection(listening.getsockname())
file = open(sys.argv[1], "r+b")
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
at = libc.mmap(None, 4096, 1, mmap.MAP_SHARED, file.fileno(), 0)
send = lambda: libc.send(stuck.fileno(), ctypes.c_void_p(at), 4096, 0)
thread = threading.Thread(target=send, daemon=True)
thread.start()
while b"tcp_sendmsg" not in open(f"/proc/self/task/{thread.native_id}/stack", "rb").read():
    time.sleep(0.01)
after = socket.create_server(("127.0.0.1", 0))
say(stuck.fileno(), after.fileno())
os._exit(0)
"""


@contextmanager
def running(script: str, *arguments: object, before: tuple[str, ...] = ()) -> Iterator[tuple[int, list[str]]]:
    """Run a script until it says something; yield its PID and what it said."""
    argv = [*before, sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            yield child.pid, child.stdout.readline().decode().split()
        finally:
            child.communicate(b"\n")


def queues(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what waits in each socket, by addresses."""
    return {
        (row.get("local", ""), row.get("remote", "")): (row.get("receive_queue", 0), row.get("send_queue", 0))
        for row in rows
    }


@pytest.mark.root
def test_network_shows_what_waits_in_the_sockets_of_another_namespace() -> None:
    """A reader that does not read, a writer that cannot write, connections nobody accepts; and its own counters."""
    with running(FULL, before=("unshare", "--net")) as (pid, _):
        ss = ["nsenter", "-t", str(pid), "-n", "ss", "-Htan"]
        before, shown = b"", subprocess.run(ss, capture_output=True, check=True).stdout
        while before != shown:  # the kernel still moves what was written from one queue to the other
            before, collected = shown, collect(Network(), context(manual(pid)))
            shown = subprocess.run(ss, capture_output=True, check=True).stdout
    assert (str(collected.error), collected.missing, collected.not_applicable) == ("None", "", "")
    rows = collected.rows("sockets.jsonl")
    found = queues(rows)
    (reading,) = [key for key in found if key[1] == "127.0.0.1:7001" and found[key][0]]
    assert found[reading[::-1]][1] > 0
    for line in shown.decode().splitlines():
        state, received, unsent, local, remote = line.split()[:5]
        if state == "ESTAB" and (local, remote) in found:
            assert found[local, remote] == (int(received), int(unsent))
    (listening,) = [row for row in rows if row.get("state") == "LISTEN"]
    assert listening["tcp"] == {"backlog": 3, "backlog_max": 2}
    (udp,) = [row for row in rows if row["protocol"] == "udp"]
    assert (udp["local"], udp["receive_queue"]) == ("[::1]:7002", 100)
    assert {row["tcp"]["rto_us"] > 0 for row in rows if row.get("state") == "ESTABLISHED"} == {True}
    assert not [path for path in collected.artifacts if path.startswith("host/")]
    names, values = [line.split() for line in collected.text(f"{pid}/netstat").splitlines()[:2]]
    assert int(dict(zip(names, values, strict=True))["ListenOverflows"]) > 0
    assert f"{pid}/softnet_stat" in collected


def test_network_shows_the_sockets_of_a_held_process() -> None:
    """While the kernel holds it; an abstract name is escaped."""
    with held([sys.executable, "-c", PRELUDE + CRASHES]) as process:
        marker = msgspec.structs.replace(manual(), kind=MarkerKind.DUMP, process=process.process)
        collected = collect(Network(), dataclasses.replace(context(marker), held=process))
    rows = collected.rows("sockets.jsonl")
    assert [row["receive_queue"] for row in rows if row.get("receive_queue")] == [77]
    (named,) = [row for row in rows if row.get("state") == "LISTEN"]
    assert named["local"] == rf"@held\x0a{process.process.pid}"
    assert collected.document("kinds.json")["unix stream LISTEN"] == 1
    assert collected.missing == ""
    assert "host/netstat" in collected


@pytest.mark.root
def test_network_shows_the_sockets_of_a_process_whose_first_thread_has_exited() -> None:
    """The first thread has no descriptors any more; the others have."""
    with running(FIRST_THREAD_GONE) as (pid, _):
        wait_for_state(pid, "Z")
        collected = collect(Network(), context(manual(pid)))
    assert 78 in [row.get("receive_queue") for row in collected.rows("sockets.jsonl")]
    assert collected.missing == ""


@pytest.mark.root
@pytest.mark.needs("/dev/fuse")
def test_network_gives_up_only_the_socket_whose_lock_is_held(tmp_path: Path) -> None:
    """Its state cannot be asked for; that of the sockets after it can."""
    (tmp_path / "fuse").mkdir()
    with ExitStack() as stack:
        # The file system goes first: what hangs on it can be read then, and ends.
        waiting = stack.enter_context(ExitStack())
        mountpoint = waiting.enter_context(mounted(tmp_path / "fuse"))
        argv = [sys.executable, "-c", PRELUDE + WEDGED, str(mountpoint / "slow")]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(child.communicate)
        stack.callback(waiting.close)
        assert child.stdout is not None
        stuck, after = child.stdout.readline().split()
        ctx = context(manual(child.pid))
        collected = collect(Network(read_timeout=0.1), ctx)  # type: ignore[arg-type]
    shown = {row["fd"] for row in collected.rows("sockets.jsonl")}
    assert int(after) in shown
    assert int(stuck) not in shown
    assert f"socket {int(stuck)} of process {child.pid}: gave up" in str(collected.artifacts["sockets.jsonl"].cut)
    assert [row["path"] for row in collected.rows("unread.jsonl")] == [f"/proc/{child.pid}/fd/{int(stuck)}"]


def test_network_keeps_nothing_of_a_process_that_has_the_number_now() -> None:
    """A recycled PID: the host's counters, and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        collected = collect(Network(), context(manual(os.getpid(), start_ticks=1)))
        assert str(server.getsockname()[1]).encode() not in collected.everything()
    assert "belongs to another process now" in str(collected.error)
    assert {path.partition("/")[0] for path in collected.artifacts} == {"host"}


@pytest.mark.parametrize(
    ("process", "said"),
    [
        (None, "the marker is about no process"),
        (ProcessRef(pid=os.getpid()), "no process that is known for certain"),
        (ProcessRef(pid=4000077, start_time_ticks=1), "process 4000077 had ended"),
    ],
)
def test_network_of_nobody_has_the_counters_of_the_host(process: ProcessRef | None, said: str) -> None:
    """Nobody is named, only a number, or it has ended: its sockets do not apply."""
    marker = msgspec.structs.replace(manual(), kind=MarkerKind.EXIT, process=process)
    collected = collect(Network(), context(marker))
    assert said in collected.not_applicable
    assert "host/snmp" in collected
    assert b"core/somaxconn\t" in collected["host/settings.tsv"]
    assert "sockets.jsonl" not in collected


def test_network_says_that_a_process_given_by_hand_is_gone() -> None:
    """It was asked for by name: the step is truncated."""
    assert collect(Network(), context(manual(4000077, start_ticks=1))).missing == "process 4000077 had ended"


def test_network_says_how_many_processes_it_leaves_out() -> None:
    """Of more than 32 given by hand, the sockets of the others are missing."""
    others = tuple(ProcessRef(pid=4000077 + number, start_time_ticks=1) for number in range(39))
    marker = msgspec.structs.replace(manual(os.getpid()), kind=MarkerKind.EXIT, also=others)
    collected = collect(Network(), context(marker))
    assert collected.missing == "8 more than 32 processes"
    assert "sockets.jsonl" in collected


def test_network_keeps_the_fullest_of_many_sockets_and_counts_all() -> None:
    """Two thousand idle pairs do not push out the one that is full, which comes last."""
    with ExitStack() as stack:
        for _ in range(1000):
            for one in socket.socketpair():
                stack.enter_context(one)
        left, right = socket.socketpair()
        stack.enter_context(left)
        stack.enter_context(right).send(b"x" * 99)
        collected = collect(Network(max_sockets=10), context(manual(os.getpid())))
        inode = os.fstat(left.fileno()).st_ino
    rows = collected.rows("sockets.jsonl")
    assert len(rows) == 10
    assert inode in {row["inode"] for row in rows[:2]}
    total = sum(collected.document("kinds.json").values())
    assert total >= 2002
    assert f"only 10 of {total} sockets are listed (max_sockets)" in str(collected.artifacts["sockets.jsonl"].cut)


def test_network_looks_at_no_more_descriptors_of_several_processes_than_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves something in the kernel's caches: 48,000 of six processes left 46 MiB."""
    monkeypatch.setattr("collector.collectors.network.network.MAX_FDS", 32)
    many = "kept = [socket.socketpair() for _ in range(30)]\nsay('ready')"
    with running(many) as (first, _), running(many) as (second, _):
        marker = msgspec.structs.replace(manual(first), also=(manual(second).process,))
        collected = collect(Network(), context(marker))
    assert 20 < sum(collected.document("kinds.json").values()) <= 32
    cut = str(collected.artifacts["sockets.jsonl"].cut)
    assert all(f"only the first 16 descriptors of process {pid} were looked at" in cut for pid in (first, second))


def test_network_lists_a_socket_once_that_has_several_descriptors() -> None:
    """As after dup(2)."""
    with socket.create_server(("127.0.0.1", 0)) as server, server.dup():
        rows = collect(Network(), context(manual(os.getpid()))).rows("sockets.jsonl")
        inode = os.fstat(server.fileno()).st_ino
    assert [row["inode"] for row in rows].count(inode) == 1


@pytest.mark.root
def test_network_shows_a_type_without_a_name_as_its_number() -> None:
    """SOCK_PACKET is 10."""
    with socket.socket(socket.AF_PACKET, 10):
        rows = collect(Network(), context(manual(os.getpid()))).rows("sockets.jsonl")
    assert [row["type"] for row in rows if row["family"] == "packet"] == ["10"]


ASKS = """
import sys
sys.path.insert(0, sys.argv[1])
from collecting import collect, context, manual
from collector.collectors.network.network import Network
print(collect(Network(), context(manual(int(sys.argv[2])))).artifacts["sockets.jsonl"].cut)
"""


@pytest.mark.root
def test_network_says_what_it_may_not_ask() -> None:
    """Without CAP_SYS_PTRACE: that is not the same as having no sockets."""
    need("setpriv")
    with running("left, right = socket.socketpair()\nsay('ready')") as (pid, _):
        argv = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-c", ASKS]
        lower = subprocess.run([*argv, str(Path(__file__).parents[1]), str(pid)], capture_output=True, check=True)
    assert lower.stdout.decode() == f"sockets of process {pid}: Permission denied\n"
