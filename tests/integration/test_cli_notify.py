"""``collector notify``, from the command line to the marker."""

from __future__ import annotations

import contextlib
import grp
import itertools
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from watching import told, trigger_context

from collector.host.files import Host
from collector.model.errors import CollectorError
from collector.triggers import notify as notify_module
from collector.triggers.base import TriggerContext
from collector.triggers.notify import Notify, NotifyWatch


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[NotifyWatch]:
    tmp_path.chmod(0o700)
    ctx = TriggerContext(
        id="notify",
        host=Host(),
        ignore=(),
        runtime_directory=str(tmp_path),
        remember=lambda _key, _text: None,
        recall=lambda _key: None,
    )
    watch = Notify().open(ctx)
    yield watch
    watch.close()


def notify(watch: NotifyWatch | None, *arguments: str, **environment: str) -> int:
    texts = (argument.encode("utf-8", "surrogateescape") for argument in arguments)  # whatever the tests' locale is
    command = [sys.executable, "-m", "collector.cli.main", "notify", *texts]
    if watch is not None:
        command += ["--socket", watch.path]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("SERVICE_", "EXIT_"))}
    return subprocess.run(command, check=False, env={**environ, **environment}, capture_output=True).returncode


def test_notify_tells_what_it_is_told(watch: NotifyWatch) -> None:
    """Each argument is one fact, also one that holds a line break."""
    assert notify(watch, "PID=4711", "SIGNAL=SEGV", "NOTE=a=b\nPID=1") == 0
    (marker,) = watch.read()
    assert marker.process is not None
    assert (marker.process.pid, marker.signal, marker.attributes["NOTE"]) == (4711, 11, "a=b PID=1")


@pytest.mark.parametrize("fact", ["PID=abc", "pid=123456789012345678", "UID=root", "START_TIME=1.5", "SIGNAL=SEGVV"])
def test_notify_tells_a_mistake_and_says_so(watch: NotifyWatch, fact: str) -> None:
    """A number that is none is an error, and yet no crash is lost for it."""
    assert notify(watch, fact, "UNIT=a.service") == 64
    (marker,) = watch.read()
    assert (marker.process, marker.unit) == (None, "a.service")


def test_notify_takes_an_empty_number_for_none(watch: NotifyWatch) -> None:
    """What a supervisor did not know, it leaves empty."""
    assert notify(watch, "PID=", "UNIT=a.service") == 0


def test_notify_tells_what_systemd_says(watch: NotifyWatch) -> None:
    """As in ExecStopPost=: after a success there is nothing to tell."""
    assert notify(watch, "--systemd", "UNIT=a.service", SERVICE_RESULT="success", EXIT_CODE="exited") == 0
    assert list(watch.read()) == []
    said = {"SERVICE_RESULT": "core-dump", "EXIT_CODE": "dumped", "EXIT_STATUS": "SEGV"}
    assert notify(watch, "--systemd", "UNIT=a.service", **said) == 0
    (marker,) = watch.read()
    assert (marker.unit, marker.signal, marker.reason.endswith("core-dump")) == ("a.service", 11, True)


def test_notify_finds_the_socket_by_the_configuration(watch: NotifyWatch, tmp_path: Path) -> None:
    """It is in the runtime directory, unless the trigger says otherwise."""
    config = tmp_path / "collector.yaml"
    config.write_text(
        f"version: 1\nruntime: {{directory: {tmp_path}}}\npipelines: {{p: {{steps: [{{id: a, collector: dmesg}}]}}}}\n"
    )
    assert notify(None, "UNIT=a.service", "--config", str(config)) == 0
    assert [marker.unit for marker in watch.read()] == ["a.service"]


@pytest.mark.parametrize(("arguments", "status"), [((), 64), (("x",), 64), (("A=1", "--socket", "/nonexistent"), 69)])
def test_notify_says_why_not(arguments: tuple[str, ...], status: int) -> None:
    """sysexits: a wrong command line, a daemon that is not there."""
    assert notify(None, *arguments) == status


def test_notify_does_not_wait_for_a_full_queue(watch: NotifyWatch) -> None:
    """The caller has a dying process to look after."""
    with contextlib.ExitStack() as stack:
        while fill(stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)), watch):
            pass
        assert notify(watch, "A=1") == 69


def fill(client: socket.socket, watch: NotifyWatch) -> int:
    """
    Send until that fails; return the number of datagrams.

    A sender is stopped by its own buffer (SO_SNDBUF) or by the socket's queue (net.unix.max_dgram_qlen), whichever is
    full first: the queue is full once a new sender cannot send at all.
    """
    for sent in itertools.count():
        try:
            client.sendto(b"A=1", watch.path)
        except BlockingIOError:
            return sent
    raise AssertionError


@pytest.mark.parametrize("arguments", [("PID=41", "PID=42"), ("PID=41", "pid = 42")])
def test_notify_refuses_a_key_given_twice(watch: NotifyWatch, arguments: tuple[str, ...]) -> None:
    """Nobody can know which of them is meant."""
    assert notify(watch, *arguments) == 64
    assert list(watch.read()) == []


def test_notify_takes_no_second_fact_from_a_name(watch: NotifyWatch) -> None:
    """The dead process chose its name."""
    assert notify(watch, "PID=41", "COMM=a\rPID=42", "NOTE=b\u2028PID=43") == 0
    (marker,) = watch.read()
    assert marker.process is not None
    assert (marker.process.pid, marker.refused) == (41, None)


def test_notify_lets_arguments_win_over_the_environment(watch: NotifyWatch) -> None:
    """With `--systemd`, what is given is not given twice."""
    assert notify(watch, "--systemd", "EXIT_STATUS=SEGV", EXIT_CODE="dumped", EXIT_STATUS="ABRT") == 0
    assert [(marker.signal, marker.refused) for marker in watch.read()] == [(11, None)]


def test_notify_says_that_the_daemon_refuses_what_is_too_long(watch: NotifyWatch) -> None:
    """It is recorded, and not collected."""
    assert notify(watch, "NOTE=" + "x" * 9000) == 64
    assert [marker.refused for marker in watch.read()] == ["longer than 8192 bytes"]


PID = os.getpid()  # of the user's own, as the daemon does not believe others
FAILED = {"MONITOR_SERVICE_RESULT": "core-dump", "MONITOR_INVOCATION_ID": "a" * 32, "MONITOR_UNIT": "a.service"}


@pytest.fixture
def systemctl(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Return a function that makes a ``systemctl`` of a shell script, and returns the environment that finds it."""

    def make(script: str) -> dict[str, str]:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin/systemctl"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    return make


@pytest.mark.parametrize(
    ("script", "pid"),
    [
        (f"echo ExecMainPID={PID}; echo InvocationID={'a' * 32}", PID),
        (f"echo ExecMainPID=42; echo InvocationID={'b' * 32}", None),  # started again
        (f"echo ExecMainPID=0; echo InvocationID={'a' * 32}", None),  # failed before its main process
        (f"echo ExecMainPID=; echo InvocationID={'a' * 32}", None),
        (f"echo ExecMainPID=x; echo InvocationID={'a' * 32}", None),
        ("echo garbage; echo = ; printf 'ExecMainPID=\\377\\n'", None),
        ("exit 1", None),
        ("exec sleep 60", None),
        ("kill -STOP $$", None),
    ],
    ids=["main", "another start", "no main", "empty", "no number", "garbage", "failure", "hangs", "stops"],
)
def test_notify_asks_systemd_for_the_main_process(
    watch: NotifyWatch, systemctl: Callable[[str], dict[str, str]], script: str, pid: int | None
) -> None:
    """Only that of the invocation that failed is told; whatever systemd answers, the crash is told."""
    assert notify(watch, "--systemd", "UNIT=a.service", **FAILED, **systemctl(script)) == 0
    (marker,) = watch.read()
    assert (marker.process and marker.process.pid, marker.unit, marker.refused) == (pid, "a.service", None)


def test_notify_does_not_ask_systemd_for_what_it_is_told(
    watch: NotifyWatch, systemctl: Callable[[str], dict[str, str]]
) -> None:
    """PID= on the command line wins."""
    asked = systemctl(f"echo ExecMainPID=41; echo InvocationID={'a' * 32}")
    assert notify(watch, "--systemd", f"PID={PID}", **FAILED, **asked) == 0
    assert [marker.process and marker.process.pid for marker in watch.read()] == [PID]


def test_notify_tells_the_crash_where_there_is_no_systemctl(watch: NotifyWatch, tmp_path: Path) -> None:
    """In a container, say."""
    assert notify(watch, "--systemd", "UNIT=a.service", **FAILED, PATH=str(tmp_path)) == 0
    assert [(marker.unit, marker.process) for marker in watch.read()] == [("a.service", None)]


def test_notify_tells_the_invocation_that_failed_not_its_own(watch: NotifyWatch) -> None:
    """An ``OnFailure=`` unit has an invocation of its own in its environment."""
    assert notify(watch, "--systemd", "UNIT=a.service", **FAILED, INVOCATION_ID="c" * 32, PATH="/nonexistent") == 0
    (marker,) = watch.read()
    assert {key: value for key, value in marker.attributes.items() if "INVOCATION" in key} == {
        "MONITOR_INVOCATION_ID": "a" * 32
    }


def test_notify_asks_about_the_unit_that_failed_though_another_had_started_it(
    watch: NotifyWatch, systemctl: Callable[[str], dict[str, str]]
) -> None:
    """An ``OnFailure=`` unit may fail itself: what systemd said of its trigger is still in its environment."""
    asked = systemctl(f'test "$4" = b.service && echo ExecMainPID={PID}; echo InvocationID={"c" * 32}')
    own = {"SERVICE_RESULT": "signal", "INVOCATION_ID": "c" * 32}
    assert notify(watch, "--systemd", "UNIT=b.service", **FAILED, **own, **asked) == 0
    (marker,) = watch.read()
    assert (marker.process and marker.process.pid, marker.unit) == (PID, "b.service")


def test_notify_reads_no_more_than_a_share_of_a_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond is recorded, and not read: nobody else's notification waits for it."""
    monkeypatch.setattr(notify_module, "READ_PER_MINUTE", 4)
    tmp_path.chmod(0o700)
    ctx = trigger_context(tmp_path)
    with closing(Notify().open(ctx)) as flooded, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as client:
        for _ in range(4):
            client.sendto(b"SIGNAL=SEGV", flooded.path)
        markers = told(flooded.read())
    assert [marker.signal for marker in markers if marker.refused is None] == [11] * (2 if os.geteuid() == 0 else 1)
    assert (len(markers), markers[-1].signal) == (4, None)
    assert "share of uid" in str(markers[-1].refused)


def test_notify_names_the_group_that_there_is_not(tmp_path: Path) -> None:
    """The state of the trigger says so, and it is tried again."""
    tmp_path.chmod(0o700)
    with pytest.raises(CollectorError, match="there is no group 'nobody-has-this'"):
        Notify(group="nobody-has-this").open(trigger_context(tmp_path))


SENDER = """
import os, socket, sys
path, gid = sys.argv[1], int(sys.argv[2])
os.setgroups([gid] if gid else [])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"SIGNAL=SEGV", path)
"""


@pytest.mark.root
def test_notify_is_open_to_a_group_alone(tmp_path: Path) -> None:
    """Its members send, each for himself; nobody else reaches the socket."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o055 != 0o055:
            directory.chmod(0o755)
    group = grp.getgrgid(2)  # daemon, bin: some group that is always there, and not nobody's
    with closing(Notify(group=group.gr_name, socket=f"{tmp_path}/s").open(trigger_context(tmp_path))) as watch:
        info = os.stat(watch.path)
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (0, group.gr_gid, 0o660)
        done = [
            subprocess.run([sys.executable, "-c", SENDER, watch.path, str(gid)], capture_output=True, check=False)
            for gid in (0, group.gr_gid)
        ]
        assert [b"PermissionError" in one.stderr for one in done] == [True, False]
        (marker,) = told(watch.read())
    assert (marker.uid, marker.signal, marker.refused) == (65534, 11, None)
