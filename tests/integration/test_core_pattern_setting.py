"""core_pattern is set and put back on the real kernel; what belongs to others stays."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from machine import core_pattern, need, sysctl

from collector.host.core_pattern_owner import CORE_PATTERN, CORE_PIPE_LIMIT, has_coredump_socket
from collector.host.core_pattern_setting import CorePatternRequest, ask, fulfil, set_core_pattern
from collector.host.files import Host
from collector.host.saved_core_pattern import put_back, saved_path
from collector.triggers.base import TriggerContext
from collector.triggers.kernel_cores.registration import Registration

pytestmark = pytest.mark.root
FILES = "original.%P"
SYSTEMD = "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t 9223372036854775808 %h"


@dataclass
class Stopping:
    """A store whose daemon is ending."""

    stopping: bool = True

    def stored(self, name: str) -> int | None:
        raise NotImplementedError(name)

    def store(self, name: str, fd: int) -> bool:
        raise NotImplementedError(name, fd)


@dataclass
class Lab:
    """A runtime directory, and the patterns that lead into it."""

    directory: str

    @property
    def socket(self) -> str:
        return f"@@{self.directory}/cores.sock"

    @property
    def pipe(self) -> str:
        return f"|/usr/bin/python3 -I -S {self.directory}/core_handler %P"

    def registration(
        self,
        *,
        takeover: bool = False,
        store: Stopping | None = None,
        host: Host | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Registration:
        ctx = TriggerContext(
            id="held",
            host=host or Host(),
            ignore=(),
            runtime_directory=self.directory,
            remember=lambda _key, _text: None,
            recall=lambda _key: None,
            descriptors=store,
        )
        return Registration(ctx, takeover=takeover, clock=clock)


def in_force() -> str:
    return Path(CORE_PATTERN).read_text(encoding="utf-8").rstrip("\n")


def limit() -> int:
    return int(Path(CORE_PIPE_LIMIT).read_text(encoding="utf-8"))


def set_to(pattern: str) -> None:
    Path(CORE_PATTERN).write_text(pattern + "\n", encoding="utf-8")


@pytest.fixture
def lab() -> Iterator[Lab]:
    need("root")
    if not has_coredump_socket(os.uname().release):
        pytest.skip("needs Linux 6.17")
    scratch = tempfile.mkdtemp(prefix="pattern-", dir="/tmp")  # a socket's path has at most 107 bytes
    os.mkdir(f"{scratch}/run", 0o700)
    try:
        with core_pattern(FILES):
            yield Lab(f"{scratch}/run")
    finally:
        shutil.rmtree(scratch)


def test_pattern_is_set_and_put_back(lab: Lab) -> None:
    registration = lab.registration()
    assert registration.register(lab.socket, None) is None
    assert in_force() == lab.socket
    assert registration.close() is False
    assert in_force() == FILES
    assert not os.path.exists(saved_path(lab.directory))


def test_empty_pattern_is_put_back(lab: Lab) -> None:
    set_to("")
    registration = lab.registration()
    assert registration.register(lab.socket, None) is None
    registration.put_back()
    assert in_force() == ""


def test_pipe_limit_is_set_and_put_back(lab: Lab) -> None:
    with sysctl("kernel/core_pipe_limit", 3):
        registration = lab.registration()
        assert registration.register(lab.pipe, 16) is None
        assert (in_force(), limit()) == (lab.pipe, 16)
        registration.put_back()
        assert (in_force(), limit()) == (FILES, 3)


@pytest.mark.parametrize(
    ("pattern", "owner"),
    [
        (SYSTEMD, "systemd-coredump (|/usr/lib/systemd/systemd-coredump"),
        ("|/usr/share/apport/apport -p%p -s%s", "Apport (|/usr/share/apport/apport"),
        ("|/usr/bin/python3 /usr/share/apport/apport %P", "Apport ("),
        ("|/usr/libexec/abrt-hook-ccpp %s", "ABRT ("),
        ("|/opt/their/handler %P", "/opt/their/handler"),
        ("@@/run/their.sock", "/run/their.sock"),
    ],
)
def test_pattern_of_somebody_else_stays_unless_it_is_taken_over(lab: Lab, pattern: str, owner: str) -> None:
    """The reason names who takes the cores."""
    set_to(pattern)
    reason = lab.registration().register(lab.socket, None)
    assert reason is not None
    assert reason.startswith(f"core_pattern belongs to {owner}")
    assert in_force() == pattern
    taking = lab.registration(takeover=True)
    assert taking.register(lab.socket, None) is None
    assert in_force() == lab.socket
    taking.put_back()
    assert in_force() == pattern


def test_pattern_that_was_set_again_to_a_file_is_replaced_and_kept(lab: Lab) -> None:
    registration = lab.registration()
    registration.register(lab.socket, None)
    set_to("newer.%P")
    assert registration.check() is None
    assert in_force() == lab.socket
    registration.put_back()
    assert in_force() == "newer.%P"


def test_pattern_that_somebody_else_has_set_meanwhile_stays(lab: Lab) -> None:
    registration = lab.registration()
    registration.register(lab.socket, None)
    set_to(SYSTEMD)
    assert "systemd-coredump" in (registration.check() or "")
    registration.put_back()
    assert in_force() == SYSTEMD


def test_successor_of_a_killed_daemon_knows_the_original(lab: Lab) -> None:
    """It finds its own pattern in force, also the one of another mode, and neither is ever put back."""
    with sysctl("kernel/core_pipe_limit", 0):
        lab.registration().register(lab.pipe, 16)
        successor = lab.registration()
        assert successor.register(lab.socket, None) is None
        successor.put_back()
        assert (in_force(), limit()) == (FILES, 0)


def test_pattern_left_without_a_record_is_replaced_by_the_kernels_own(lab: Lab) -> None:
    """Somebody has removed the record: nothing is better than our own pattern, with nobody behind it."""
    lab.registration().register(lab.socket, None)
    os.unlink(saved_path(lab.directory))
    put_back(Host(), lab.directory)
    assert in_force() == "core"


def test_pattern_of_a_collector_that_is_gone_is_replaced(lab: Lab) -> None:
    """With another runtime directory; what that one had replaced is put back."""
    other = Lab(f"{os.path.dirname(lab.directory)}/other")
    os.mkdir(other.directory, 0o700)
    other.registration().register(other.socket, None)
    Path(f"{other.directory}/cores.sock").touch()
    reason = lab.registration().register(lab.socket, None)
    assert reason is not None
    assert f"belongs to {other.directory}/cores.sock" in reason
    os.unlink(f"{other.directory}/cores.sock")
    registration = lab.registration()
    assert registration.register(lab.socket, None) is None
    registration.put_back()
    assert in_force() == FILES


def test_pattern_stays_for_the_successor_when_the_daemon_ends(lab: Lab) -> None:
    """The service manager may be about to start it again; without one it is put back."""
    store = Stopping(stopping=False)
    registration = lab.registration(store=store)
    registration.register(lab.socket, None)
    store.stopping = True
    assert registration.close() is True
    assert in_force() == lab.socket
    set_to(FILES)
    assert registration.check() is None  # put back by others: a daemon that ends does not set it again
    assert in_force() == FILES


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("@@{directory}/a%b", "without %"),
        ("@@{directory}/" + "x" * 90, "and a socket's path at most 107"),
        ("|{directory}/" + "x" * 110, "bytes, and the kernel keeps 127"),
        ("@@{directory}/../cores", "without %, spaces, . and .."),
        ("@@relative/cores", "an absolute path"),
        ("@@/elsewhere/cores", "would not lead into"),
    ],
)
def test_pattern_that_cannot_work_is_not_set(lab: Lab, wanted: str, reason: str) -> None:
    said = lab.registration().register(wanted.format(directory=lab.directory), None)
    assert said is not None
    assert reason in said
    assert in_force() == FILES


def test_pattern_behind_a_symlink_is_not_set(lab: Lab) -> None:
    """The kernel follows none: each crash would be lost."""
    link = Lab(f"{lab.directory}/link")
    os.symlink(lab.directory, link.directory)
    assert "symlink" in (link.registration().register(link.socket, None) or "")
    assert in_force() == FILES


@pytest.mark.parametrize("spoil", ["owner", "mode", "boot"])
def test_record_that_is_not_to_be_trusted_is_ignored(lab: Lab, spoil: str) -> None:
    """Root writes what it says into core_pattern, which can start any program."""
    lab.registration().register(lab.socket, None)
    record = Path(saved_path(lab.directory))
    if spoil == "owner":
        os.chown(record, 65534, 65534)
    elif spoil == "mode":
        record.chmod(0o666)
    else:
        text = record.read_text(encoding="utf-8")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        record.write_text(text.replace(boot, boot[::-1]), encoding="utf-8")
    put_back(Host(), lab.directory)
    assert in_force() == "core"


def test_pattern_that_the_kernel_does_not_keep_is_reported(tmp_path: Path) -> None:
    """It accepts nonsense, and cuts off silently; here it is a machine that forgets all that is written."""
    root, runtime = tmp_path / "machine", tmp_path / "run"
    kernel = root / "proc/sys/kernel"
    (kernel / "random").mkdir(parents=True)
    runtime.mkdir()
    (kernel / "core_pattern").symlink_to("/dev/null")
    (kernel / "core_pipe_limit").write_text("0\n", encoding="utf-8")
    (kernel / "random/boot_id").write_text("boot\n", encoding="utf-8")
    wanted = CorePatternRequest(pattern=f"|/bin/h {runtime}/h")
    assert "does not keep" in (set_core_pattern(Host(str(root)), str(runtime), wanted) or "")
    assert not os.path.exists(saved_path(str(runtime)))


@pytest.fixture
def sandboxed(tmp_path: Path) -> tuple[Host, Path]:
    """A machine where nobody may write core_pattern, and a runtime directory."""
    root, runtime = tmp_path / "machine", tmp_path / "run"
    kernel = root / "proc/sys/kernel"
    (kernel / "random").mkdir(parents=True)
    runtime.mkdir()
    (kernel / "core_pattern").symlink_to("/proc/sys/kernel/osrelease")
    (kernel / "core_pipe_limit").write_text("0\n", encoding="utf-8")
    (kernel / "random/boot_id").write_text("boot\n", encoding="utf-8")
    return Host(str(root)), runtime


def test_daemon_that_may_not_set_the_pattern_asks_for_it_once_a_minute(sandboxed: tuple[Host, Path]) -> None:
    """And looks each second whether it is done, for some seconds."""
    host, runtime = sandboxed
    now_s = [5.0]
    registration = Lab(str(runtime)).registration(host=host, clock=lambda: now_s[0])
    assert "collector core-pattern --as-asked" in (registration.register(f"|/bin/h {runtime}/h", 4) or "")
    request = runtime / "core_pattern.wanted"
    wanted = CorePatternRequest(pattern=f"|/bin/h {runtime}/h", pipe_limit=4)
    assert msgspec.json.decode(request.read_bytes(), type=CorePatternRequest) == wanted
    request.unlink()
    for passed_s, check_s, asked in ((0.001, 1.0, False), (1.0, 1.0, False), (5.0, 60.0, False), (60.0, 1.0, True)):
        now_s[0] = 5.0 + passed_s
        assert registration.check() is not None
        assert (registration.check_s, request.exists()) == (check_s, asked), passed_s


def test_request_of_a_trigger_that_a_reload_replaces_is_withdrawn(lab: Lab) -> None:
    """Its successor finds the pattern in force, and would lose it a moment later to the request to put it back."""
    registration = lab.registration()
    registration.register(lab.socket, None)
    ask(lab.directory, CorePatternRequest(pattern=""))
    successor = lab.registration()
    assert successor.register(lab.socket, None) is None
    assert successor.check_s == 1.0
    assert fulfil(Host(), lab.directory) is None
    assert in_force() == lab.socket
    registration.put_back()


def test_request_stays_until_it_is_fulfilled(sandboxed: tuple[Host, Path]) -> None:
    """The loop looks at once after a start: that must not take away what was just asked for, nor what is kept by it."""
    host, runtime = sandboxed
    registration = Lab(str(runtime)).registration(host=host)
    registration.register(f"@@{runtime}/cores.sock", None)
    record = Path(saved_path(str(runtime)))
    record.write_bytes(b"of who fulfils it just now")
    assert registration.check() is not None
    assert (runtime / "core_pattern.wanted").exists()
    assert record.read_bytes() == b"of who fulfils it just now"
