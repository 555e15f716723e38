"""Exits: real processes, real signals, the real connector."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.host.files import Host
from collector.model.errors import UsageError
from collector.model.marker import Marker, MarkerKind
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.process_exits import ExitRule, ProcessExits

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="the proc connector needs CAP_NET_ADMIN")]
NOBODY = 65534

Opener = Callable[..., Watch]


@pytest.fixture
def ctx(tmp_path: Path) -> TriggerContext:
    return TriggerContext(
        id="exits",
        host=Host(),
        ignore=(),
        runtime_directory=str(tmp_path),
        remember=lambda _key, _text: None,
        recall=lambda _key: None,
    )


@pytest.fixture
def watching(ctx: TriggerContext) -> Iterator[Opener]:
    opened: list[Watch] = []

    def start(*rules: ExitRule) -> Watch:
        watch = (ProcessExits(rules=rules) if rules else ProcessExits()).open(ctx)
        opened.append(watch)
        return watch

    yield start
    for watch in opened:
        watch.close()


def of(watch: Watch, pid: int, *, wait_s: float = 0.2) -> list[Marker]:
    """The markers of one process: others crash on this machine, too."""
    markers: list[Marker] = []
    while select.select([watch], [], [], wait_s)[0]:
        markers += watch.read()
    return [marker for marker in markers if marker.process and marker.process.pid == pid]


@contextmanager
def child_of(watch: Watch, *argv: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A child that waits for its standard input to close, already seen by the poll that the daemon makes."""
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]
    time.sleep(0.05)  # its exec
    assert list(watch.poll()) == []
    yield child
    child.communicate()


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_process_exits_tells_a_crash_once(watching: Opener) -> None:
    """The core dump is told while the process lives; its exit adds no second marker."""
    watch = watching()
    with child_of(watch, "cat", user=NOBODY) as child:
        born = start_ticks(child.pid)
        child.send_signal(signal.SIGSEGV)
    (marker,) = of(watch, child.pid)
    assert marker.kind is MarkerKind.EXIT
    assert marker.process is not None
    assert marker.process.start_time_ticks == born
    assert (marker.comm, marker.uid, marker.attributes["core_dumped"]) == ("cat", NOBODY, "pending")


@pytest.mark.parametrize(
    ("rule", "script", "found"),
    [
        (ExitRule(signals=("SIGKILL",)), "kill -KILL $$", True),
        (ExitRule(signals=("KILL",)), "kill -TERM $$", False),
        (ExitRule(signals=("ABRT",)), "kill -ABRT $$", True),
        (ExitRule(signals=("ABRT",)), "kill -SEGV $$", False),
        (ExitRule(statuses=(3,)), "exit 3", True),
        (ExitRule(statuses=(3,)), "exit 4", False),
        (ExitRule(statuses=(3,), comm=("sh", "dash", "bash")), "exit 3", True),
        (ExitRule(statuses=(3,), comm=("engine*",)), "exit 3", False),
        (ExitRule(statuses=(3,), exe=("/*bin/*sh",)), "exit 3", True),
        (ExitRule(statuses=(3,), exe=("/opt/*",)), "exit 3", False),
        (ExitRule(statuses=(3,), unit=("none.service",)), "exit 3", False),
    ],
)  # fmt: skip
def test_process_exits_goes_by_its_rules(watching: Opener, rule: ExitRule, script: str, found: bool) -> None:
    """Only what a rule names is a crash."""
    watch = watching(rule)
    with child_of(watch, "sh", "-c", f"read x; {script}") as child:
        pass
    markers = of(watch, child.pid)
    assert [marker.process is not None for marker in markers] == [True] * found
    if found:
        assert {markers[0].signal, markers[0].exit_status} & {int(signal.SIGKILL), int(signal.SIGABRT), 3}


def test_process_exits_knows_who_renamed_itself(watching: Opener) -> None:
    """A comm event: prctl(PR_SET_NAME), which no exec tells."""
    watch = watching(ExitRule(comm=("engine",), statuses=(7,)))
    script = "import os, sys; sys.stdin.read(); open('/proc/self/comm', 'w').write('engine'); os._exit(7)"
    with child_of(watch, sys.executable, "-c", script) as child:
        pass
    (marker,) = of(watch, child.pid)
    assert (marker.comm, marker.exit_status) == ("engine", 7)


def test_process_exits_knows_who_never_called_exec(watching: Opener) -> None:
    """A pre-forked worker has no exec event of its own; it looks like its parent."""
    watch = watching(ExitRule(statuses=(9,)))
    script = (
        "import os, sys; sys.stdin.read(); pid = os.fork()\nif pid == 0: os._exit(9)\nos.waitpid(pid, 0); print(pid)"
    )
    with child_of(watch, sys.executable, "-c", script, stdout=subprocess.PIPE) as child:
        grandchild = int(child.communicate()[0])
    (marker,) = of(watch, grandchild)
    assert marker.comm is not None
    assert marker.comm.startswith("python")


def test_process_exits_is_not_woken_by_what_nobody_asked_for(watching: Opener) -> None:
    """Forks, execs, good exits and the ends of threads stay in the kernel."""
    watch = watching()
    of(watch, 0)
    script = "import threading; t = threading.Thread(target=lambda: None); t.start(); t.join()"
    for _ in range(5):
        subprocess.run([sys.executable, "-c", script], check=True)
    ready = select.select([watch], [], [], 0.1)[0]
    # Other work on this machine may fail meanwhile; five Pythons with their threads would be ten events.
    assert not ready or len(list(watch.exits.read(100))) < 5  # type: ignore[attr-defined]


def test_process_exits_tells_an_exit_of_many_threads_once(watching: Opener) -> None:
    """The kernel tells each thread's exit with the status of them all; the filter on the socket drops the others."""
    watch = watching(ExitRule(statuses=(3,)))
    script = (
        "import os, sys, threading, time\n"
        "for _ in range(5): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "sys.stdin.read(); os._exit(3)"
    )
    with child_of(watch, sys.executable, "-c", script) as child:
        pass
    assert len(of(watch, child.pid)) == 1


def test_process_exits_tells_that_the_queue_overflowed(watching: Opener) -> None:
    """ENOBUFS is counted: crashes were lost, and nobody knows how many."""
    import socket

    watch = watching(ExitRule(statuses=(3,)))
    watch.exits._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # type: ignore[attr-defined]
    for _ in range(20):
        subprocess.run(["sh", "-c", "exit 3"], check=False)
    of(watch, 0)
    assert watch.lost >= 1


def test_process_exits_refuses_a_signal_that_does_not_exist(ctx: TriggerContext) -> None:
    """A typing error must not become a rule that never matches."""
    with pytest.raises(UsageError, match="'SEGF'"):
        ProcessExits(rules=(ExitRule(signals=("SEGF",)),)).open(ctx)


def test_process_exits_survives_a_name_made_to_hurt(watching: Opener) -> None:
    """The name is cut from stat at its last parenthesis, and printable."""
    watch = watching(ExitRule(statuses=(5,)))
    script = r"import os, sys; open('/proc/self/comm', 'wb').write(b'a) R 1\n\xff\x1b'); sys.stdin.read(); os._exit(5)"
    with child_of(watch, sys.executable, "-c", script) as child:
        pass
    (marker,) = of(watch, child.pid)
    assert marker.comm == r"a) R 1\x0a\xff\x1b"
    assert abs(marker.at_s - time.time()) < 60
