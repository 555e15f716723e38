"""Exit files and the notify socket: what process supervisors report, and who may report it."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from watching import opened, told

from collector.host.files import Host
from collector.model.errors import DeniedError
from collector.model.marker import Marker, MarkerKind
from collector.model.owners import Owners, SubordinateUids
from collector.triggers import notify
from collector.triggers.base import Trigger, TriggerContext, Watch
from collector.triggers.exit_files import ExitFiles
from collector.triggers.notify import Notify

NOBODY = 65534
Opener = Callable[[Trigger], Watch]


@pytest.fixture
def ctx(tmp_path: Path) -> TriggerContext:
    (tmp_path / "run").mkdir(mode=0o700)
    return TriggerContext(
        id="supervisor",
        host=Host(),
        ignore=(),
        runtime_directory=str(tmp_path / "run"),
        remember=lambda _key, _text: None,
        recall=lambda _key: None,
    )


@pytest.fixture
def watching(ctx: TriggerContext) -> Iterator[Opener]:
    watches: list[Watch] = []

    def start(trigger: Trigger) -> Watch:
        watch = trigger.open(ctx)
        watches.append(watch)
        assert told(watch.poll()) == []
        return watch

    yield start
    for watch in watches:
        watch.close()


def drain(watch: Watch) -> list[Marker]:
    markers: list[Marker] = []
    while select.select([watch], [], [], 0.05)[0]:
        markers += told(watch.read())
    return markers


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


def test_exit_files_reads_what_a_supervisor_leaves(watching: Opener, drop: Path) -> None:
    """Lines or JSON; the file is removed once its marker is recorded, and its facts are in the marker."""
    (drop / "before").write_text("PID=4711\nCOMM=engine\nEXIT_CODE=dumped\nEXIT_STATUS=SEGV\nsite=a=b\n")
    watch = watching(ExitFiles(paths=(str(drop),)))
    (drop / "after").write_text('{"pid": 4712, "comm": "engine", "exit_status": 3, "start_time": 99}')
    one, two = sorted(drain(watch), key=lambda marker: marker.process.pid if marker.process else 0)
    assert (one.kind, one.signal, one.exit_status, one.attributes["SITE"]) == (MarkerKind.EXIT, 11, None, "a=b")
    assert sorted(path.name for path in drop.iterdir()) == ["after", "before"]  # a record may not be committed yet
    assert told(watch.poll()) == []
    assert two.process is not None
    assert (two.process.start_time_ticks, two.exit_status, two.signal) == (99, 3, None)
    assert list(drop.iterdir()) == []


def test_exit_files_refuses_a_key_given_twice(watching: Opener, drop: Path) -> None:
    """The file stays, and the reason is in its marker."""
    (drop / "twice").write_text("PID=4711\nCOMM=a\nPID=1\n")
    watch = watching(ExitFiles(paths=(str(drop),)))
    assert [(marker.process, marker.refused) for marker in drain(watch)] == [(None, "PID is given twice")]
    assert told(watch.poll()) == []
    assert len(list(drop.iterdir())) == 1


@pytest.mark.root
def test_exit_files_goes_on_where_it_cannot_remove(watching: Opener, drop: Path, tmp_path: Path) -> None:
    """A service with ProtectSystem=strict sees the directory read-only: the status says so, markers still come."""
    (tmp_path / "view").mkdir()
    subprocess.run(["mount", "--bind", drop, tmp_path / "view"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "view"], check=True)
        watch = watching(ExitFiles(paths=(str(tmp_path / "view"),)))
        for name in ("a", "b"):
            (drop / name).write_text(f"COMM={name}")
            assert [marker.comm for marker in drain(watch)] == [name]
            assert told(watch.poll()) == []
        assert watch.degraded is not None
        assert "Read-only" in watch.degraded
        (drop / "b").unlink()
        assert told(watch.poll()) == []
        assert watch.degraded is None
    finally:
        subprocess.run(["umount", tmp_path / "view"], check=True)


@pytest.mark.root
@pytest.mark.parametrize("mended", ["gone", "permitted"])
def test_exit_files_say_no_longer_that_a_file_stays(watching: Opener, drop: Path, mended: str) -> None:
    """Its owner may not remove it, until it is gone or he may."""
    watch = watching(ExitFiles(paths=(str(drop),)))
    (drop / ".x").write_text("COMM=engine\n")
    os.chown(drop / ".x", NOBODY, NOBODY)
    (drop / ".x").rename(drop / "x")
    assert [marker.comm for marker in drain(watch)] == ["engine"]
    for _ in range(2):
        assert told(watch.poll()) == []
        assert "whose owner may not remove them" in str(watch.degraded)
    if mended == "gone":
        (drop / "x").unlink()
    else:
        drop.chmod(0o1777)
    assert told(watch.poll()) == []
    assert watch.degraded is None
    assert list(drop.iterdir()) == []


def test_exit_files_leaves_files_that_are_still_being_written(watching: Opener, drop: Path) -> None:
    """A scan that finds an open file waits for its close; temporary names are ignored."""
    (drop / ".hidden").touch()
    (drop / "x.tmp").write_text("PID=1")
    with open(drop / "open", "w") as unfinished:
        unfinished.write("COMM=engine\n")
        unfinished.flush()
        watch = watching(ExitFiles(paths=(str(drop),)))
        assert drain(watch) == []
    assert [marker.comm for marker in drain(watch)] == ["engine"]


def test_exit_files_refuses_planted_files(watching: Opener, drop: Path, tmp_path: Path) -> None:
    """Nothing is read or removed through a planted name."""
    secret = tmp_path / "secret"
    secret.write_text("PASSWORD=x")
    (drop / "link").symlink_to(secret)
    os.link(secret, drop / "hard")
    os.mkfifo(drop / "fifo")
    (drop / "long").write_bytes(b"A=" + b"x" * 70_000)
    watch = watching(ExitFiles(paths=(str(drop),)))
    markers = drain(watch)
    assert len(markers) == 4
    assert all(marker.refused and "PASSWORD" not in marker.attributes for marker in markers)
    assert len(list(drop.iterdir())) == 4


def acl(*, others: int) -> bytes:
    """Return a list by which NOBODY has these rights. Source: posix_acl_xattr.h in include/uapi/linux."""
    none = 0xFFFFFFFF
    entries = ((1, 6, none), (2, others, NOBODY), (4, 4, none), (16, others, none), (32, 0, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.mark.root
def test_exit_files_refuses_roots_files_that_others_may_write(watching: Opener, drop: Path) -> None:
    """Whoever may write it could speak as root; one that others may only read is root's word."""
    watch = watching(ExitFiles(paths=(str(drop),)))
    assert drain(watch) == []
    for name, gid, mode, rights in (
        ("group", NOBODY, 0o664, None), ("list", 0, 0o640, 6), ("all", 0, 0o666, None),
        ("roots", 0, 0o664, None), ("read", NOBODY, 0o644, None), ("reader", 0, 0o640, 4),
    ):  # fmt: skip
        (drop / ".x").write_text(f"COMM={name}\nUID=0\n")
        os.chown(drop / ".x", 0, gid)
        (drop / ".x").chmod(mode)
        if rights is not None:
            os.setxattr(drop / ".x", "system.posix_acl_access", acl(others=rights))
        (drop / ".x").rename(drop / name)
    markers = drain(watch)
    assert [marker.comm for marker in markers if marker.refused is None] == ["roots", "read", "reader"]
    assert sum("writable by" in str(marker.refused) for marker in markers) == 3


@pytest.mark.root
@pytest.mark.parametrize("policy", ["attribute", "refuse"])
def test_exit_files_holds_the_owner_to_account(watching: Opener, drop: Path, policy: str) -> None:
    """A file of the user nobody reports that user's crash only, and names no other user's process."""
    drop.chmod(0o1777)
    watch = watching(ExitFiles(paths=(str(drop),), unprivileged=policy))  # type: ignore[arg-type]
    assert drain(watch) == []
    (drop / ".x").write_text("PID=1\nUID=0\nCOMM=init\n")
    os.chown(drop / ".x", NOBODY, NOBODY)
    (drop / ".x").rename(drop / "x")
    (marker,) = drain(watch)
    assert marker.uid == NOBODY
    assert (marker.refused is None) == (policy == "attribute")
    assert marker.process is None


@pytest.mark.parametrize("data", [b"", b"\xff\xfe=\0", b"{", b'{"a": {}}', b"{" * 5000, b"=\n=\n", b"A" * 8192])
def test_notify_survives_any_datagram(watching: Opener, ctx: TriggerContext, data: bytes) -> None:
    """Garbage is a marker without facts."""
    watch = watching(Notify())
    send(f"{ctx.runtime_directory}/notify.sock", data)
    (marker,) = drain(watch)
    assert marker.process is None


def send(path: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(data, path)


def test_notify_makes_a_marker_of_a_datagram(watching: Opener, ctx: TriggerContext) -> None:
    """As systemd passes it to an OnFailure= unit."""
    watch = watching(Notify())
    said = {"UNIT": "engine.service", "SERVICE_RESULT": "core-dump", "EXIT_CODE": "dumped", "EXIT_STATUS": "SEGV"}
    text = "".join(f"MONITOR_{key}={value}\n" for key, value in said.items())
    send(f"{ctx.runtime_directory}/notify.sock", text.encode())
    (marker,) = drain(watch)
    assert (marker.kind, marker.unit, marker.signal) == (MarkerKind.NOTIFICATION, "engine.service", 11)
    assert marker.reason.endswith(": core-dump")


@pytest.mark.root
@pytest.mark.parametrize("said", ["1", "2"])
def test_notify_takes_no_number_of_a_container_for_one_of_this_machine(
    watching: Opener, ctx: TriggerContext, said: str
) -> None:
    """The first process of a namespace is told by the kernel's credentials; which one its number 2 is, nobody knows."""
    watch = watching(Notify())
    program = (
        "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)"
        f".sendto(b'PID={said}\\nSIGNAL=11', '{ctx.runtime_directory}/notify.sock'); print(flush=True); input()"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        sender.stdout.readline()
        (marker,) = drain(watch)
        sender.communicate(b"\n")
    assert marker.inner_pid == int(said)
    if said == "1":
        assert marker.process is not None
        assert marker.process.pid != 1
        assert marker.process.start_time_ticks is None, "it lives"
    else:
        assert marker.process is None
        assert "its PID 2 is one of its sender's PID namespace: which process of this machine" in marker.reason


def test_notify_refuses_a_datagram_that_is_too_long(watching: Opener, ctx: TriggerContext) -> None:
    """Half a message may say the opposite of the whole."""
    watch = watching(Notify())
    send(f"{ctx.runtime_directory}/notify.sock", b"A=" + b"x" * 9000)
    (marker,) = drain(watch)
    assert marker.refused is not None


def test_notify_keeps_no_descriptor_that_is_passed_along(watching: Opener, ctx: TriggerContext) -> None:
    """A sender cannot fill the descriptor table."""
    watch = watching(Notify())
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(f"{ctx.runtime_directory}/notify.sock")
        rights = array.array("i", [0] * 20)
        client.sendmsg([b"A=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert len(drain(watch)) == 1
    assert len(os.listdir("/proc/self/fd")) == before


AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    s.sendto(b"UID=0\\nPID=1\\nCOMM=init\\n", sys.argv[1])
except PermissionError:
    sys.exit(77)
"""


@pytest.mark.root
def test_notify_is_out_of_reach_by_default(watching: Opener, ctx: TriggerContext) -> None:
    """Neither the directory nor the socket lets another user in."""
    watch = watching(Notify())
    path = f"{ctx.runtime_directory}/notify.sock"
    assert subprocess.run([sys.executable, "-c", AS_NOBODY, path], check=False).returncode == 77
    assert drain(watch) == []


@pytest.mark.root
@pytest.mark.parametrize("policy", ["attribute", "refuse"])
def test_notify_goes_by_the_kernels_credentials(
    watching: Opener, tmp_path_factory: pytest.TempPathFactory, policy: str
) -> None:
    """What the user nobody reports is that user's crash, whatever it says."""
    path = f"/run/collector-test-{os.getpid()}.sock"
    watch = watching(Notify(socket=path, uids=(12345,), unprivileged=policy))  # type: ignore[arg-type]
    assert subprocess.run([sys.executable, "-c", AS_NOBODY, path], check=False).returncode == 0
    (marker,) = drain(watch)
    assert (marker.uid, marker.process) == (NOBODY, None)
    assert (marker.refused is None) == (policy == "attribute")


SUBORDINATES = """
import os, socket, sys
for uid in (300_001, 300_002, 2000):
    if (child := os.fork()) == 0:
        os.setgroups([])
        os.setresuid(uid, uid, uid)
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.connect(sys.argv[1])
        for _ in range(3):  # 9 in all: the queue may be of 10
            sender.send(b"SIGNAL=SEGV")
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.root
def test_notify_counts_the_subordinate_uids_of_a_user_as_his(
    ctx: TriggerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each would take a share of its own, and leave none to others."""
    monkeypatch.setattr(notify, "READ_PER_MINUTE", 12)
    users = Owners(subordinate=(SubordinateUids(first=300_000, count=65_536, uid=1000),))
    path = f"/run/collector-test-{os.getpid()}.sock"
    with opened(Notify(socket=path, unprivileged="attribute"), replace(ctx, owners=users)) as watch:
        subprocess.run([sys.executable, "-c", SUBORDINATES, path], check=True)
        read = Counter(marker.uid for marker in drain(watch) if marker.refused is None)
    assert read.keys() == {300_001, 2000}


def test_notify_refuses_a_directory_that_others_may_write_to(ctx: TriggerContext, tmp_path: Path) -> None:
    """A socket in /tmp can be replaced by others."""
    tmp_path.chmod(0o777)
    with pytest.raises(DeniedError, match="others may write"):
        Notify(socket=str(tmp_path / "s")).open(ctx)


@pytest.mark.parametrize("plant", ["file", "symlink"])
def test_notify_refuses_a_name_that_is_taken(ctx: TriggerContext, plant: str, tmp_path: Path) -> None:
    """Only our own socket is removed."""
    path = Path(ctx.runtime_directory, "notify.sock")
    path.touch() if plant == "file" else path.symlink_to(tmp_path / "target")
    with pytest.raises(DeniedError, match="not a socket"):
        Notify().open(ctx)
    assert os.path.lexists(path)


def test_notify_takes_over_from_an_earlier_run(watching: Opener, ctx: TriggerContext) -> None:
    """A stale socket gives way, and the old watch does not remove the new one's name."""
    first = Notify().open(ctx)
    second = watching(Notify())
    first.close()
    send(f"{ctx.runtime_directory}/notify.sock", b"A=1")
    assert len(drain(second)) == 1


@pytest.mark.parametrize("again", ["gone", "made anew", "taken"])
def test_notify_notices_that_nobody_reaches_it(watching: Opener, ctx: TriggerContext, again: str) -> None:
    """Its directory was removed, or made anew, or another socket has its name; what was sent before still arrives."""
    watch = watching(Notify())
    path = Path(ctx.runtime_directory, "notify.sock")
    assert watch.gone is None
    send(str(path), b"A=1")
    path.unlink()
    path.parent.rmdir()
    if again != "gone":
        path.parent.mkdir(mode=0o700)
    if again == "taken":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(path))
    assert watch.gone is not None
    assert str(path) in watch.gone
    assert len(drain(watch)) == 1
    watch.close()
    assert path.exists() == (again == "taken")
