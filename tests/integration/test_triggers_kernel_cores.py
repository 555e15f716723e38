"""Real crashes, which the kernel hands to the trigger `kernel_cores`: by its socket, and by a handler's pipe."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from machine import compiled, core_pattern, need, sysctl
from watching import trigger_context

from collector.daemon import hold_guard
from collector.daemon.holding import Holding
from collector.daemon.loop import Loop
from collector.host.core_pattern_owner import has_coredump_socket
from collector.host.files import Host, OpenFd
from collector.host.held_process import HeldProcess
from collector.host.procfs import Process
from collector.model.budgets import Spent
from collector.model.case import Case, Fate
from collector.model.errors import CollectorError
from collector.model.marker import DUMP, HELD_DUMP, Marker, MarkerKind
from collector.model.ruling import Ruling
from collector.model.units import Reserve, Seconds
from collector.triggers.kernel_cores.dump_rule import DumpRule
from collector.triggers.kernel_cores.kernel_cores import KernelCores, KernelCoresWatch

pytestmark = pytest.mark.root
NOBODY = 65534
CRASH = ["/bin/sh", "-c", "kill -SEGV $$"]
MODES = ("socket", "pipe")


@dataclass
class Lab:
    """A trigger that ``core_pattern`` leads to, and what it has done with the crashes."""

    watch: KernelCoresWatch
    directory: Path
    held: list[HeldProcess]
    left_out: Counter[tuple[str, str]]
    markers: list[Marker] = field(default_factory=list)

    def read_until(self, *processes: subprocess.Popen[bytes], markers: int = 0) -> None:
        """Let the trigger read until there are so many markers, and the processes are over."""
        end_s = time.monotonic() + 20
        while len(self.markers) < markers or any(process.poll() is None for process in processes):
            assert time.monotonic() < end_s, (self.markers, self.left_out)
            if select.select([self.watch], [], [], 0.05)[0]:
                self.markers += [marker for marker in self.watch.read() if marker is not None and is_ours(marker)]

    def marker_of(self, process: subprocess.Popen[bytes]) -> Marker:
        """Return the marker of a crash, once it is there."""
        self.read_until(markers=len(self.markers) + 1)
        assert self.markers[-1].process is not None
        assert self.markers[-1].process.pid == process.pid
        return self.markers[-1]

    def let_go(self) -> None:
        for held in self.held:
            held.release("the test is over")


@contextmanager
def crashing(it: Lab, command: Sequence[str | Path] = CRASH, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that crashes; at the end nobody is held, or a test that fails would wait for it."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
            it.let_go()


def is_ours(marker: Marker) -> bool:
    """Whether the process was started by this test: other tests' processes crash meanwhile."""
    return descends(int(marker.attributes["parent"]))


def descends(pid: int) -> bool:
    """Return whether a process is this one, or was started by it."""
    while pid not in {0, os.getpid()}:
        with Process(Host(), pid) as process:
            pid = process.stat().ppid
    return pid != 0


@contextmanager
def lab(mode: str, **options: Any) -> Iterator[Lab]:
    """Open the trigger and let ``core_pattern`` lead to it; at the end nobody is held."""
    need("root")
    if mode == "socket" and not has_coredump_socket(os.uname().release):
        pytest.skip("needs Linux 6.17")
    directory = Path(tempfile.mkdtemp(prefix="cores-", dir="/tmp"))  # a path of at most 107 bytes
    held: list[HeldProcess] = []
    left_out: Counter[tuple[str, str]] = Counter()

    def hold(process: HeldProcess) -> None:
        if descends(process.process.pid):
            held.append(process)
        else:
            process.release("it is another test's, and takes no place here")

    ctx = replace(trigger_context(directory), hold=hold, reached=lambda limit, owner: left_out.update([(limit, owner)]))
    trigger = KernelCores(mode=mode, register=False, **options)  # type: ignore[arg-type]
    try:
        with (
            closing(trigger.open(ctx)) as watch,
            sysctl("kernel/core_pipe_limit", 16),
            core_pattern(watch._source.pattern),
        ):
            found = Lab(watch, directory, held, left_out)
            try:
                yield found
            finally:
                found.let_go()
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("mode", MODES)
def test_kernel_cores_hold_a_crash_and_know_whose_it_is(mode: str) -> None:
    """By the pidfd: PID, start time, user, program, signal; the process is there until it is let go."""
    with lab(mode) as it, crashing(it, user=NOBODY, cwd="/") as process:
        marker = it.marker_of(process)
        assert (marker.kind, marker.uid, marker.signal) == (MarkerKind.DUMP, NOBODY, signal.SIGSEGV)
        assert marker.exe == os.path.realpath("/bin/sh")
        assert (marker.process, marker.thread) == (it.held[0].process, process.pid)
        assert marker.attributes[DUMP] == HELD_DUMP
        assert marker.attributes["parent"] == str(os.getpid())
        assert it.held[0].memory_bytes > 0
        assert process.poll() is None
        it.let_go()
        assert process.wait(10) == -signal.SIGSEGV
        assert not it.left_out


@pytest.mark.parametrize("mode", MODES)
def test_kernel_cores_refuse_by_rule_and_count_it(mode: str) -> None:
    """Nothing is held and nothing is reported: the process ends as if nobody had asked for its dump."""
    rules = (DumpRule(comm=("other",)), DumpRule(comm=("s?",), uid=(NOBODY,)))
    with lab(mode, refuse=rules) as it:
        with crashing(it, user=NOBODY, cwd="/") as process:
            it.read_until(process)
        assert process.returncode == -signal.SIGSEGV
        assert (it.held, it.markers) == ([], [])
        assert it.left_out == {("kernel_cores.refuse", f"uid {NOBODY}"): 1}
        with crashing(it, cwd="/") as process:  # another uid
            assert it.marker_of(process).attributes[DUMP] == HELD_DUMP
            it.let_go()


@pytest.mark.parametrize("mode", MODES)
def test_kernel_cores_refuse_beyond_waiting_and_report_it(mode: str) -> None:
    """Whoever is refused has a marker that says why, and those who are held stay."""
    with lab(mode, waiting=2) as it:
        with crashing(it) as one, crashing(it) as two:
            it.read_until(markers=2)
            with crashing(it) as three:
                it.read_until(three, markers=3)
                assert it.markers[-1].attributes[DUMP] == "its dump was refused: 2 crashed processes are held already"
                assert (one.poll(), two.poll(), len(it.held)) == (None, None, 2)
            assert it.left_out == {("kernel_cores.waiting", "root"): 1}
            it.let_go()
        with crashing(it) as four:
            assert it.marker_of(four).attributes[DUMP] == HELD_DUMP
            it.let_go()


@pytest.mark.parametrize(
    "options", [{"waiting": 2}, {"memory": Reserve(size_bytes=1)}], ids=lambda one: next(iter(one))
)
def test_kernel_cores_let_go_of_the_owner_who_holds_most(options: dict[str, Any]) -> None:
    """Nobody's crashes cost root its dump, however many there are; those of nobody are refused as ever."""
    (limit,) = options
    with lab("socket", **options) as it, ExitStack() as stack:
        for count in range(2 if limit == "waiting" else 1):
            stack.enter_context(crashing(it, user=NOBODY, cwd="/"))
            it.read_until(markers=count + 1)
        with crashing(it) as process:
            assert it.marker_of(process).attributes[DUMP] == HELD_DUMP
            assert [held.ended for held in it.held if not held.is_held] == [
                f"it gave way to a crash of root: uid {NOBODY} had most of those held"
            ]
            assert it.left_out == {(f"kernel_cores.{limit}", f"uid {NOBODY}"): 1}
            it.let_go()


def test_kernel_cores_refuse_beyond_memory_but_never_the_first() -> None:
    with lab("socket", memory=Reserve(size_bytes=1)) as it, crashing(it) as one:
        assert it.marker_of(one).attributes[DUMP] == HELD_DUMP
        with crashing(it) as two:
            it.read_until(two, markers=2)
        assert "of 1 B that may be held" in it.markers[-1].attributes[DUMP]
        assert it.left_out == {("kernel_cores.memory", "root"): 1}
        it.let_go()


def test_kernel_cores_name_the_thread_that_crashed(tmp_path: Path) -> None:
    program = compiled(Path(__file__).parents[1] / "e2e" / "threads.c", tmp_path, "-pthread")
    with (
        lab("socket") as it,
        crashing(it, [program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process,
    ):
        marker = it.marker_of(process)
        assert marker.thread not in {None, process.pid}
        assert marker.thread_comm not in {None, marker.comm}
        it.let_go()


@pytest.mark.parametrize("mode", MODES)
def test_kernel_cores_know_a_process_of_another_namespace_by_its_number_here(mode: str) -> None:
    """Nor do the names of its files mean the same there."""
    inside = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", "sh -c 'kill -SEGV $$'; exit 0"]
    with lab(mode) as it, crashing(it, inside) as outside:
        it.read_until(markers=1)
        marker = it.markers[0]
        assert marker.process is not None
        assert marker.process.pid != marker.inner_pid == 2
        assert os.readlink(f"/proc/{marker.process.pid}/ns/mnt") == marker.attributes["mount_namespace"]
        it.let_go()
        assert outside.wait(10) == 0


def test_kernel_cores_let_the_real_user_pay_for_a_set_id_program(tmp_path: Path) -> None:
    """Its effective uid is its owner's, who has not started it."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        directory.chmod(0o755)
        program = compiled(Path(__file__).parents[1] / "e2e" / "crasher.c", directory)
        program.chmod(0o4755)
        with (
            lab("socket") as it,
            sysctl("fs/suid_dumpable", 2),
            crashing(it, [program], user=NOBODY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process,
        ):
            marker = it.marker_of(process)
            assert "\nUid:\t65534\t0\t" in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            assert marker.uid == NOBODY
            it.let_go()
    finally:
        shutil.rmtree(directory)


def test_kernel_cores_never_see_a_process_that_may_not_be_dumped() -> None:
    """The kernel offers nothing: that crash is for `process_exits` to tell."""
    program = "import ctypes, os; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); os.kill(os.getpid(), 11)"
    with lab("socket") as it:
        with crashing(it, [sys.executable, "-I", "-c", program]) as process:
            it.read_until(process)
        assert (process.returncode, it.markers, it.held) == (-signal.SIGSEGV, [], [])


def test_kernel_cores_believe_no_connection_but_the_kernels() -> None:
    """Nobody else can reach the socket; root can, and is not believed unless it dumps core."""
    with lab("socket") as it, closing(socket.socket(socket.AF_UNIX)) as client:
        path = it.watch._source.pattern.removeprefix("@@")
        assert os.lstat(path).st_mode & 0o777 == 0o600
        client.connect(path)
        client.sendall(b"\x10\0\0\0\x10\0\0\0\x0f\0\0\0\0\0\0\0")
        assert [marker for marker in it.watch.read() if marker] == []
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert it.held == []
        assert it.left_out == {("kernel_cores.untrusted", "root"): 1}


def handler_of(it: Lab) -> list[str]:
    """The command that the kernel starts, without the PID."""
    return it.watch._source.pattern.removeprefix("|").split()[:-1]


def test_kernel_cores_believe_no_handler_started_by_hand() -> None:
    """As root, with a process that does not dump; as nobody, it cannot reach the daemon at all."""
    with lab("pipe") as it, crashing(it, ["sleep", "60"]) as living:
        assert subprocess.run([*handler_of(it), str(living.pid)], stdin=subprocess.PIPE, check=False).returncode == 0
        for _ in range(2):
            assert [marker for marker in it.watch.read() if marker] == []
        assert (it.held, living.poll()) == ([], None)
        assert it.left_out == {("kernel_cores.untrusted", "root"): 1}
        it.directory.chmod(0o755)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as client:
            os.seteuid(NOBODY)
            try:
                with pytest.raises(PermissionError):
                    client.connect(str(it.directory / "handler.sock"))
            finally:
                os.seteuid(0)


def test_kernel_cores_forget_handlers_that_send_nothing() -> None:
    """A connection without a message keeps a place only until others need it."""
    with lab("pipe") as it:
        silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(70)]
        for client in silent:
            client.connect(str(it.directory / "handler.sock"))
        with crashing(it) as process:
            assert it.marker_of(process).attributes[DUMP] == HELD_DUMP
            it.let_go()
        assert len(it.watch._source._unread) <= 64  # type: ignore[attr-defined]
        for client in silent:
            client.close()


def test_handler_says_in_the_kernels_log_that_nobody_takes_the_core() -> None:
    with lab("pipe") as it:
        command = handler_of(it)
        it.watch.close()
        with open("/dev/kmsg", "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as kmsg:
            os.lseek(kmsg.fileno(), 0, os.SEEK_END)
            assert subprocess.run([*command, str(os.getpid())], stdin=subprocess.DEVNULL, check=False).returncode == 1
            assert f"the core of process {os.getpid()} is lost".encode() in os.read(kmsg.fileno(), 8192)


def test_kernel_cores_are_gone_when_their_socket_is() -> None:
    with lab("socket") as it:
        assert it.watch.gone is None
        (it.directory / "cores.sock").unlink()
        assert "No such file" in str(it.watch.gone)


@pytest.mark.parametrize("mode", MODES)
def test_kernel_cores_leave_another_triggers_socket_alone(mode: str) -> None:
    """Two triggers would take it from each other forever; what a killed run has left is in nobody's use."""
    need("root")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        trigger = KernelCores(mode=mode, register=False)  # type: ignore[arg-type]
        with closing(trigger.open(trigger_context(Path(directory)))) as first:
            with pytest.raises(CollectorError, match="another one listens"):
                trigger.open(trigger_context(Path(directory)))
            assert first.gone is None
        with closing(socket.socket(socket.AF_UNIX)) as killed:
            killed.bind(str(Path(directory, "cores.sock")))
        trigger.open(trigger_context(Path(directory))).close()


@dataclass
class Store:
    """The service manager's store of descriptors."""

    stopping: bool = False
    kept: dict[str, int] = field(default_factory=dict)

    def stored(self, name: str) -> int | None:
        return self.kept.pop(name, None)

    def store(self, name: str, fd: int) -> bool:
        self.kept[name] = os.dup(fd)
        return True


@pytest.mark.parametrize("mode", MODES)
def test_crash_waits_in_the_stored_socket_for_the_next_run(mode: str) -> None:
    """The daemon ends, a process crashes, and the daemon that is started next takes it over."""
    with lab(mode) as it:
        store = Store()
        ctx = replace(it.watch._ctx, descriptors=store, runtime_directory=str(it.directory))
        trigger = KernelCores(mode=mode)  # type: ignore[arg-type]
        it.watch.close()
        before = trigger.open(ctx)
        store.kept |= {name: os.dup(fd) for name, fd in store.kept.items()}
        store.stopping = True
        before.close()
        with crashing(it) as process:
            time.sleep(0.2)
            assert process.poll() is None
            store.stopping = False
            with closing(trigger.open(ctx)) as it.watch:
                assert it.marker_of(process).attributes[DUMP] == HELD_DUMP
                it.let_go()
                assert process.wait(10) == -signal.SIGSEGV


def test_nobody_waits_in_a_stored_socket_that_is_closed_for_good() -> None:
    """At a reload without the trigger, the store has its copy still."""
    with lab("socket") as it:
        store = Store()
        it.watch.close()
        watch = KernelCores().open(replace(it.watch._ctx, descriptors=store))
        with crashing(it) as process:
            assert select.select([watch], [], [], 10)[0]
            watch.close()
            assert process.wait(10) == -signal.SIGSEGV
        assert list(store.kept) == ["cores.sock"]


def test_kernel_cores_say_where_core_pattern_should_lead() -> None:
    """Somebody else sets it: while it leads elsewhere, no crash arrives; and a path may be too long for it."""
    with lab("socket") as it:
        list(it.watch.poll())
        assert it.watch.degraded is None
        Path("/proc/sys/kernel/core_pattern").write_text("core", encoding="utf-8")  # under the lock; put back by it
        list(it.watch.poll())
        assert it.watch.degraded == (
            f"core_pattern is 'core'; set it to '@@{it.directory}/cores.sock', or write register: true"
        )
        deep = it.directory / ("x" * 70)
        deep.mkdir(mode=0o700)
        ctx = replace(it.watch._ctx, runtime_directory=str(deep))
        with closing(KernelCores(mode="pipe", register=False).open(ctx)) as watch:
            list(watch.poll())
            assert "the kernel keeps 127" in str(watch.degraded)


def test_release_lets_go_of_a_process_whose_dump_a_hanging_worker_receives() -> None:
    """It has its own copy of the connection, which nobody can close; the process dies of its own signal."""
    with lab("socket") as it, crashing(it) as process:
        it.marker_of(process)
        with OpenFd(os.dup(it.held[0].stream_fd)) as stream:
            it.held[0].accept()
            assert os.read(stream, 4) == b"\x7fELF"
            it.let_go()
            assert process.wait(10) == -signal.SIGSEGV


def test_process_is_killed_whose_pipe_a_hanging_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe cannot be shut down: beyond `hold`, the kernel is told to end the dump."""
    monkeypatch.setattr(hold_guard, "GRACE_S", 0.1)
    with lab("pipe", hold=Seconds(0.2)) as it, crashing(it) as process:
        marker = it.marker_of(process)
        loop = Loop()
        keeper = Holding(loop)
        keeper.guard(it.watch._source.queue_fd, 0.2)
        keeper.add(it.held[0])
        spent = Spent(at_s=0.0, executable="sh")
        case = Case(
            id=1, pipeline="crash", opened_s=0.0, ready_s=0.0, executable="sh", owner="root", markers=[marker],
            spent=spent,
        )  # fmt: skip
        with OpenFd(os.dup(it.held[0].stream_fd)):
            keeper.ruled(marker, Ruling(fate=Fate.QUEUED, case=case))
            loop.call_later(1.0, loop.stop)
            loop.run()
            assert process.wait(10) == -signal.SIGKILL
        assert not it.held[0].is_held
        keeper.close()
