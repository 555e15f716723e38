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
from machine import PROC_CONNECTOR
from watching import told

from collector.host.files import Host
from collector.host.netlink import ProcConnector
from collector.model.marker import Marker, MarkerKind
from collector.model.text import printable
from collector.triggers import process_exits
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.process_exits import ExitRule, ProcessExits, ProcessExitsWatch

pytestmark = [pytest.mark.root, pytest.mark.needs(PROC_CONNECTOR)]
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


def of(watch: Watch, pid: int) -> list[Marker]:
    """Return the markers of one process that has ended: others crash meanwhile, and never leave the queue empty."""
    markers: list[Marker] = []
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s and select.select([watch], [], [], 0.2)[0]:
        markers += told(watch.read())
    return [marker for marker in markers if marker.process and marker.process.pid == pid]


@contextmanager
def child_of(watch: Watch, *argv: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A child that waits for its standard input to close, already seen by the poll that the daemon makes."""
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]
    time.sleep(0.05)  # its exec
    assert told(watch.poll()) == []
    yield child
    child.communicate()


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_process_exits_reports_a_crash_and_its_end(watching: Opener) -> None:
    """The core dump is reported while the process lives; only the exit tells the signal, and if there is a core."""
    watch = watching()
    with child_of(watch, "cat", user=NOBODY) as child:
        born = start_ticks(child.pid)
        child.send_signal(signal.SIGSEGV)
    markers = of(watch, child.pid)
    for marker in markers:
        assert marker.kind is MarkerKind.EXIT
        assert marker.process is not None
        assert (marker.process.start_time_ticks, marker.comm, marker.uid) == (born, "cat", NOBODY)
    assert [marker.signal for marker in markers] == [None, signal.SIGSEGV]
    assert [marker.attributes["core_dumped"] == "pending" for marker in markers] == [True, False]


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
    """Only exits that match a rule are crashes."""
    watch = watching(rule)
    with child_of(watch, "sh", "-c", f"read x; {script}") as child:
        pass
    markers = of(watch, child.pid)
    assert [marker.process is not None for marker in markers] == [True] * found
    if found:
        assert {markers[0].signal, markers[0].exit_status} & {int(signal.SIGKILL), int(signal.SIGABRT), 3}


def test_process_exits_knows_a_process_that_has_renamed_itself(watching: Opener) -> None:
    """From the comm event of prctl(PR_SET_NAME); there is no exec."""
    watch = watching(ExitRule(comm=("engine",), statuses=(7,)))
    script = "import os, sys; sys.stdin.read(); open('/proc/self/comm', 'w').write('engine'); os._exit(7)"
    with child_of(watch, sys.executable, "-c", script) as child:
        pass
    (marker,) = of(watch, child.pid)
    assert (marker.comm, marker.exit_status) == ("engine", 7)


def test_process_exits_knows_a_process_that_never_called_exec(watching: Opener) -> None:
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


def test_process_exits_is_not_woken_by_forks_execs_and_good_exits(watching: Opener) -> None:
    """They stay in the kernel, and so do the exits of threads. Only our own processes count: others crash meanwhile."""
    watch = watching()
    assert isinstance(watch, ProcessExitsWatch)
    script = "import threading; t = threading.Thread(target=lambda: None); t.start(); t.join()"
    children = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(5)]
    assert [child.wait() for child in children] == [0] * 5
    ours = {child.pid for child in children}
    assert ours <= pids(watch.births)  # their execs went to the socket that wakes nobody
    assert not (ours | {os.getpid()}) & pids(watch.exits)


def pids(connector: ProcConnector) -> set[int]:
    """Return the processes of all events that are there now."""
    found: set[int] = set()
    while events := list(connector.read(100)):
        found |= {event.pid for event in events}
    return found


def test_process_exits_reports_an_exit_of_many_threads_once(watching: Opener) -> None:
    """The kernel reports each thread's exit with the status of all; the filter drops all but the process's own."""
    watch = watching(ExitRule(statuses=(3,)))
    script = (
        "import os, sys, threading, time\n"
        "for _ in range(5): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "sys.stdin.read(); os._exit(3)"
    )
    with child_of(watch, sys.executable, "-c", script) as child:
        pass
    assert len(of(watch, child.pid)) == 1


def test_process_exits_counts_overflows_of_the_queue(watching: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ENOBUFS crashes are missing, and nobody knows how many."""
    monkeypatch.setattr(process_exits, "BUFFER_BYTES", 2048)
    watch = watching(ExitRule(statuses=(3,)))
    for _ in range(20):
        subprocess.run(["sh", "-c", "exit 3"], check=False)
    of(watch, 0)
    assert watch.lost >= 1


def test_process_exits_refuses_a_signal_that_does_not_exist(ctx: TriggerContext) -> None:
    """A typo must not become a rule that never matches."""
    with pytest.raises(ValueError, match="'SEGF'"):
        ProcessExits(rules=(ExitRule(signals=("SEGF",)),)).open(ctx)


def test_process_exits_survives_a_hostile_name(watching: Opener) -> None:
    """The name ends at the last parenthesis in stat, and is made printable."""
    watch = watching(ExitRule(statuses=(5,)))
    script = r"import os, sys; open('/proc/self/comm', 'wb').write(b'a) R 1\n\xff\x1b'); sys.stdin.read(); os._exit(5)"
    with child_of(watch, sys.executable, "-c", script) as child:
        pass
    (marker,) = of(watch, child.pid)
    assert marker.comm == printable(os.fsdecode(b"a) R 1\n\xff\x1b"))
    assert abs(marker.at_s - time.time()) < 60
