"""Members of ``archive.group``: they may ask for the list, and nothing else; and they cost nobody anything."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from configuration import MEMORY, config_of
from harness import COLLECTOR, NOBODY, Daemon, as_nobody, open_up

from collector.daemon.control import MembersControl
from collector.daemon.messages import MEMBERS_SOCKET_NAME, SOCKET_NAME

pytestmark = pytest.mark.root
GROUP = grp.getgrnam("games")
SECRET = "password=hunter2"


@pytest.fixture
def daemon(daemon_factory: Callable[..., Daemon]) -> Daemon:
    """A daemon with a group, and one incident, whose reason nobody else must read."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(), archive={"group": GROUP.gr_name}))
    assert daemon.run("run", "--now", "--only", "memory", "--reason", SECRET).returncode == 0
    open_up(daemon.directory)
    return daemon


def as_user(act: Callable[[], Any], *, groups: tuple[int, ...] = (GROUP.gr_gid,), uid: int = NOBODY) -> Any:
    """Return what *act* returns in a child that is another user: JSON, or the name of the error that it raised."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(uid)
            answer = act()
        except OSError as exc:
            answer = type(exc).__name__
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def ask(daemon: Daemon, request: bytes, name: str = MEMBERS_SOCKET_NAME) -> Callable[[], Any]:
    """Return what sends *request* and returns the answer."""

    def act() -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(20)
            sock.connect(f"{daemon.runtime}/{name}")
            sock.send(request)
            return json.loads(sock.recv(1 << 20))

    def until_there_is_a_spare_worker() -> Any:
        """Ask again while digests are added, as the answer says."""
        while (answer := act()).get("exit_code") == 75:
            time.sleep(0.1)
        return answer

    return until_there_is_a_spare_worker


LIST = b'{"type":"summaries"}'


def test_group_may_ask_for_the_list_without_what_is_secret(daemon: Daemon) -> None:
    """What it was, when, and whether it is complete; not the reason, which may quote a log, nor whose it was."""
    answer = as_user(ask(daemon, LIST))
    (incident,) = answer["incidents"]
    (manifest,) = daemon.incidents()
    assert (incident["id"], incident["state"], answer["archive"]) == (manifest["id"], "complete", str(daemon.archive))
    assert SECRET not in json.dumps(answer)
    assert (incident["reason"], incident["owner"]) == ("", "")


def test_group_may_ask_for_nothing_else(daemon: Daemon) -> None:
    """Neither a run, nor a reload, nor the status with its paths; nor may it use root's socket."""
    for request in (b'{"type":"run"}', b'{"type":"reload"}', b'{"type":"status"}', b'{"type":"watch"}', b"x" * 70_000):
        answer = as_user(ask(daemon, request))
        assert (answer["event"], answer["exit_code"]) == ("reply", 64), request
    assert as_user(ask(daemon, LIST, SOCKET_NAME)) == "PermissionError"
    assert as_user(ask(daemon, LIST), groups=()) == "PermissionError"
    assert len(daemon.incidents()) == 1


def test_group_changes_no_mode_of_the_archive(daemon: Daemon) -> None:
    """Its members may pass through the runtime directory, and neither list it nor make a name in it."""
    status = daemon.runtime.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o710, 0, GROUP.gr_gid)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in daemon.runtime.glob("*.sock")} == {
        SOCKET_NAME: 0o600,
        MEMBERS_SOCKET_NAME: 0o660,
    }
    assert stat.S_IMODE(daemon.archive.stat().st_mode) == 0o700
    assert as_user(lambda: os.listdir(daemon.runtime)) == "PermissionError"
    assert as_user(lambda: os.listdir(daemon.archive)) == "PermissionError"


def test_group_taken_away_closes_the_directory_again(daemon: Daemon) -> None:
    """At the next start."""
    assert daemon.stop() == 0
    daemon.config.write_text(daemon.config.read_text().replace(f"group: {GROUP.gr_name}", 'group: ""'))
    daemon.start()
    assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o700
    assert not (daemon.runtime / MEMBERS_SOCKET_NAME).exists()


def test_group_that_does_not_exist_is_said_and_opens_nothing(daemon_factory: Callable[..., Daemon]) -> None:
    """The daemon works without it."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(), archive={"group": "no-such-group"}))
    assert [event["group"] for event in daemon.events() if event["event"] == "members.unknown"] == ["no-such-group"]
    assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o700


def test_member_who_says_nothing_keeps_nobody_from_asking(daemon: Daemon) -> None:
    """He has two connections at most, and root has a socket of its own."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(f"{daemon.runtime}/{MEMBERS_SOCKET_NAME}")
        return sock

    def act() -> Any:
        silent = [connect() for _ in range(3 * MembersControl.limit)]
        refused = 0
        for sock in silent:
            sock.settimeout(0.1)
            with suppress(TimeoutError):
                refused += b"are being served already" in sock.recv(1000)
        return refused

    assert as_user(act) >= 3 * MembersControl.limit - 2
    assert as_user(ask(daemon, LIST), uid=NOBODY - 1)["event"] == "summaries"
    assert daemon.run("status").returncode == 0


def test_list_as_a_member_is_what_the_daemon_tells(daemon: Daemon, tmp_path: Path) -> None:
    """And says so; others are told where the archive is, and whom to ask."""
    list_ = [*COLLECTOR, "list", "--config", str(daemon.config)]
    told = subprocess.run([*as_nobody(tmp_path, gid=GROUP.gr_gid), *list_], capture_output=True, text=True, check=False)
    (manifest,) = daemon.incidents()
    assert (told.returncode, manifest["id"] in told.stdout) == (0, True), told.stderr
    assert f"the archive {daemon.archive} is root's" in told.stderr
    other = subprocess.run([*as_nobody(tmp_path), *list_], capture_output=True, text=True, check=False)
    assert (other.returncode, "archive.group" in other.stderr, str(daemon.archive) in other.stderr) == (77, True, True)
    assert other.stdout == ""


def test_summaries_fit_into_one_message(daemon: Daemon) -> None:
    """Of 300 incidents the newest are told, and how many are left out."""
    (manifest,) = daemon.incidents()
    for number in range(300):
        made = dict(manifest, id=f"20271128T000000.{number:06}Z-aaaaaa", number=1000 + number)
        directory = daemon.archive / made["id"]
        directory.mkdir(mode=0o700)
        (directory / "manifest.json").write_bytes(msgspec.json.encode(made))
    answer = as_user(ask(daemon, LIST))
    assert answer["left_out"] >= 200
    assert answer["incidents"][-1]["id"].endswith("000299Z-aaaaaa")


@pytest.mark.parametrize("verb", [("list",), ("show", "latest"), ("verify",), ("export", "latest", "-o", "-")])
def test_user_without_an_archive_is_told_where_the_machines_is(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """Not that there is none in his home: he has never made one."""
    open_up(tmp_path)
    private = 'mount -t tmpfs none /var/lib && mkdir -m 700 /var/lib/collector && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", private, "sh", *as_nobody(tmp_path), *COLLECTOR, *verb]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path / "home")}
    )
    assert (done.returncode, done.stdout) == (77, "")
    assert "the archive /var/lib/collector is root's" in done.stderr
    assert "sudo" in done.stderr
