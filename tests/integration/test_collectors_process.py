from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from collecting import Collected, collect, context, manual, take
from hanging_fuse import mounted, wedged_process

from collector.collectors.process.process import ProcessDetails
from collector.collectors.process.process_files import ThreadRow, table, thread_row
from collector.host.files import Host
from collector.host.guarded_read import wedged_threads
from collector.host.procfs import Process
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Truncated
from collector.model.errors import StepError
from collector.model.marker import CoreRef, MarkerKind

NOBODY = 65534
SECRET = "hunter2-correct-horse"
STAT = "{pid} (victim) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0 0 " + "0 " * 14 + "0 0\n"


@contextlib.contextmanager
def running(
    *argv: str, env: dict[str, str] | None = None, user: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, and end it."""
    process = subprocess.Popen(argv or ("/bin/sleep", "600"), env=env, user=user, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start_ticks(pid: int) -> int:
    with Process(Host(), pid) as process:
        return process.start_ticks


def collect_process(pid: int, **fields: object) -> Collected:
    return collect(ProcessDetails(**fields), context(manual(pid)))  # type: ignore[arg-type]


def test_process_has_everything_about_a_live_process() -> None:
    """State, memory map, threads, descriptors, stacks, and a line in the inventory."""
    with running() as child:
        collected = collect_process(child.pid)
    own = f"{child.pid}/"
    for name in (
        "stat",
        "status",
        "limits",
        "cgroup",
        "maps",
        "cmdline",
        "environ",
        "smaps",
        "links.json",
        "threads.jsonl",
    ):
        assert collected[own + name], name
    assert collected[own + "cmdline"] == b"/bin/sleep\x00600\x00"
    assert [row["tid"] for row in collected.rows(own + "threads.jsonl")] == [child.pid]
    assert {row["fd"] for row in collected.rows(own + "fds.jsonl")} >= {0, 1, 2}
    assert collected.document(own + "links.json")["links"]["exe"] == os.path.realpath("/bin/sleep")
    (row,) = collected.rows("inventory.jsonl")
    assert (row["pid"], row["why"], row["comm"], row["outcome"]) == (child.pid, "marker", "sleep", "read")
    assert collected.error is None


def test_process_reads_what_can_hang_after_everything_else() -> None:
    """The order of the artifacts is the order of the reads: what cannot hang comes first, for all processes."""
    with running() as first, running() as second:
        marker = manual(first.pid, second.pid)
        paths = list(collect(ProcessDetails(), context(marker)).artifacts)
    assert paths.index(f"{second.pid}/fds.jsonl") < paths.index(f"{first.pid}/cmdline")
    assert paths.index(f"{first.pid}/io") < paths.index(f"{first.pid}/cmdline") < paths.index(f"{first.pid}/smaps")


def test_process_finds_processes_by_name_and_executable() -> None:
    """A glob on comm, path, or base name; without one, only the marker's are read."""
    with running() as child:
        for glob in ("slee?", os.path.realpath("/bin/sleep"), "sleep"):
            rows = collect(ProcessDetails(match=(glob,), max_processes=200)).rows("inventory.jsonl")
            assert child.pid in [row["pid"] for row in rows]
    assert collect(ProcessDetails()).rows("inventory.jsonl") == []


def test_process_that_is_gone_is_a_line_and_not_a_failure() -> None:
    """After most crashes the process is gone, and its core says the rest."""
    with running() as child:
        pass
    collected = collect_process(child.pid)
    (row,) = collected.rows("inventory.jsonl")
    assert row["outcome"] == "gone"
    assert collected.error is None
    assert list(collected.artifacts) == ["inventory.jsonl"]
    assert collected.missing.startswith(f"process {child.pid}: ")
    crash = msgspec.structs.replace(manual(child.pid), kind=MarkerKind.CORE_FILE)
    assert collect(ProcessDetails(), context(crash)).not_applicable.startswith(f"process {child.pid}: ")


def test_process_that_could_not_be_read_is_not_taken_for_gone(tmp_path: Path) -> None:
    """Out of descriptors, say: something is missing, though the process may live."""
    (tmp_path / "proc" / "42").mkdir(parents=True)
    (tmp_path / "proc" / "42" / "stat").write_text("no such format")
    crash = msgspec.structs.replace(manual(42), kind=MarkerKind.CORE_FILE)
    collected = collect(ProcessDetails(), context(crash, root=str(tmp_path)))
    assert collected.rows("inventory.jsonl")[0]["outcome"] == "not_read"
    assert collected.artifacts["inventory.jsonl"].cut
    assert collected.not_applicable == ""


def test_process_without_anybody_to_read_says_so() -> None:
    """By hand without a PID there is nobody; a crash whose process is not known, or a glob, lacks somebody."""
    assert collect(ProcessDetails()).not_applicable == "nobody was named: --pid PID names a process"
    nameless = msgspec.structs.replace(manual(), kind=MarkerKind.KERNEL_LOG, comm="engine")
    assert collect(ProcessDetails(), context(nameless)).missing == "the marker names no process"
    core = CoreRef(path="/cores/core", device=1, inode=1, size_bytes=1, mtime_ns=1, uid=0)
    dumped = msgspec.structs.replace(nameless, kind=MarkerKind.CORE_FILE, core=core)
    assert "had ended" in collect(ProcessDetails(), context(dumped)).not_applicable
    with running() as child:
        collected = collect(ProcessDetails(match=("sleep", "no-such-*"), max_processes=200), context(manual(child.pid)))
    assert collected.missing == "no process matches no-such-*"


def test_process_ends_in_time_with_what_it_has() -> None:
    """If time is short, the state is there and the memory files are not tried."""
    with running() as child:
        collected = collect(ProcessDetails(), context(manual(child.pid), timeout_s=1.0))
    assert f"{child.pid}/status" in collected
    assert f"{child.pid}/maps" not in collected
    assert collected.rows("inventory.jsonl")[0]["outcome"] == "partial"
    assert "time was used up" in str(collected.artifacts["inventory.jsonl"].cut)


def test_process_number_is_bounded_and_reported(tmp_path: Path) -> None:
    """Thirty-two matching processes, not ten thousand."""
    program = tmp_path / f"mine{os.getpid()}"  # others run sleep, too
    shutil.copy("/bin/sleep", program)
    with running(str(program), "600"), running(str(program), "600"):
        rows = collect(ProcessDetails(match=(program.name,), max_processes=1)).rows("inventory.jsonl")
    assert [row["outcome"] for row in rows] == ["read", "not_read"]


@pytest.mark.root
def test_process_of_root_is_read_though_another_user_has_namesakes_that_were_there_first() -> None:
    """Of a set-id program, whoever has started it pays: each of these looks like root's engine."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, contextlib.ExitStack() as stack:
        program = Path(directory, f"mine{os.getpid()}")
        shutil.copy("/bin/sleep", program)
        Path(directory).chmod(0o755)
        program.chmod(0o4755)
        for _ in range(40):
            stack.enter_context(running(str(program), "600", user=NOBODY))
        child = stack.enter_context(running(str(program), "600"))
        collected = collect(ProcessDetails(match=(program.name,)))
    rows = collected.rows("inventory.jsonl")
    assert child.pid in [row["pid"] for row in rows if row["outcome"] == "read"]
    assert [row["outcome"] for row in rows].count("read") == 32
    assert rows[-1]["detail"] == f"9 match beyond 32 processes (uid {NOBODY}: 9)"


def test_process_threads_and_descriptors_are_bounded() -> None:
    """What was left out is recorded."""
    with running() as child:
        collected = collect_process(child.pid, max_fds=1, max_threads=0)
    assert len(collected.rows(f"{child.pid}/fds.jsonl")) == 1
    assert collected.rows(f"{child.pid}/threads.jsonl") == []
    meanings = [row["meaning"] for row in collected.rows("unread.jsonl")]
    assert "only the first 1 were read" in meanings
    assert "only the first 0 were read" in meanings


def recycle(pid: int, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process that gets the PID of one that has ended."""
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:  # whoever else starts a process now may take it first
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    pytest.skip(f"PID {pid} was not to be had: others took it")


@pytest.mark.root
def test_process_keeps_nothing_of_another_that_got_the_pid() -> None:
    """The crashed process is replaced before it is read: the step says so."""
    with running() as child:
        started = start_ticks(child.pid)
    time.sleep(0.03)  # a start time has a resolution of 10 ms
    intruder = recycle(child.pid, "/bin/sleep", "599", env={"NAME": SECRET})
    try:
        collected = collect(ProcessDetails(), context(manual(child.pid, start_ticks=started)))
    finally:
        intruder.kill()
        intruder.wait()
    assert collected.error is not None
    assert f"PID {child.pid} now" in str(collected.error)
    assert [row["outcome"] for row in collected.rows("inventory.jsonl")] == ["replaced"]
    assert SECRET.encode() not in collected.everything()


@pytest.mark.root
@pytest.mark.parametrize("after", ["stat", "links.json", "stacks.jsonl", "cmdline"])
def test_process_keeps_nothing_of_another_that_got_the_pid_meanwhile(after: str, tmp_path: Path) -> None:
    """Replaced at any point of the step: what came before is kept, nothing comes after."""
    collected = Collected()
    program = shutil.copy("/bin/sleep", tmp_path / "intruder")
    with running("/bin/sleep", "600") as child:
        intruder = None
        try:
            with contextlib.suppress(Truncated):
                for artifact in ProcessDetails().collect(context(manual(child.pid))):
                    collected.artifacts[str(artifact.path)] = take(artifact)
                    if artifact.path.name == after and intruder is None:
                        child.kill()
                        child.wait()
                        intruder = recycle(child.pid, str(program), "599", env={"NAME": SECRET})
        finally:
            if intruder is not None:
                intruder.kill()
                intruder.wait()
    assert SECRET.encode() not in collected.everything()
    assert b"intruder" not in collected.everything()
    assert collected.rows("inventory.jsonl")[0]["outcome"] != "read"


def test_process_keeps_the_rows_that_were_read_before_it_was_replaced(tmp_path: Path) -> None:
    """A table ends at the first row that may be another process's; those before it are kept."""
    directory = tmp_path / "proc" / "42"
    for tid in ("1", "2", "3"):
        (directory / "task" / tid).mkdir(parents=True)
        (directory / "task" / tid / "wchan").write_text("own")
    (directory / "stat").write_text(STAT.format(pid=42, start=7))
    with Process(Host(str(tmp_path)), 42) as process:
        ids = iter((1, 2, 3))
        rows = (thread_row(process, tid, ("wchan",), ReadErrors()) for tid in ids)
        lines = table(restarting(rows, directory))
        assert next(lines).count(b'"own"') == 2
        with pytest.raises(Truncated, match="replaced"):
            next(lines)


def restarting(rows: Iterator[ThreadRow], directory: Path) -> Iterator[ThreadRow]:
    """Let another process take over after two rows."""
    yield next(rows)
    yield next(rows)
    (directory / "stat").write_text(STAT.format(pid=42, start=8))
    yield from rows


def test_process_discards_what_was_read_under_another_start_time(tmp_path: Path) -> None:
    """Even if only the start time shows it, the file that was being read is discarded."""
    directory = tmp_path / "proc" / "42"
    directory.mkdir(parents=True)
    (directory / "stat").write_text(STAT.format(pid=42, start=7))
    (directory / "status").write_text("Name:\tvictim\n")
    (directory / "limits").write_text("of the victim\n")
    collected = Collected()

    def swap_after_status() -> None:
        for artifact in ProcessDetails().collect(context(manual(42, start_ticks=7), root=str(tmp_path))):
            collected.artifacts[str(artifact.path)] = take(artifact)
            if artifact.path.name == "status":
                (directory / "limits").write_text(SECRET)
                (directory / "stat").write_text(STAT.format(pid=42, start=8))

    with pytest.raises(StepError, match="another process has PID 42"):
        swap_after_status()
    assert collected["42/status"] == b"Name:\tvictim\n"
    assert SECRET.encode() not in collected.everything()
    assert collected.rows("inventory.jsonl")[0]["outcome"] == "replaced"


def test_process_hides_secrets_of_environment_and_command_line() -> None:
    """Known secrets are nowhere in the step's bytes; names and harmless values are."""
    environment = {"DB_PASSWORD": SECRET, "DATABASE_URL": f"postgres://u:{SECRET}@db/x", "LANG": "C.UTF-8"}
    script = "import time; time.sleep(600)"
    with running(sys.executable, "-c", script, "--token", SECRET, f"--password={SECRET}", env=environment) as child:
        wait_for_exec(child.pid)
        collected = collect_process(child.pid)
    assert SECRET.encode() not in collected.everything()
    assert b"DB_PASSWORD=[redacted]\0" in collected[f"{child.pid}/environ"]
    assert b"LANG=C.UTF-8\0" in collected[f"{child.pid}/environ"]
    assert b"--token\0[redacted]\0--password=[redacted]\0" in collected[f"{child.pid}/cmdline"]


def wait_for_exec(pid: int) -> None:
    """Wait until a child has executed its program."""
    for _ in range(200):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode()):
            return
        time.sleep(0.01)


HOSTILE = """
set -e
mount -t tmpfs none {root}
mkdir -p {root}/dev/shm {root}/proc {root}/bin {root}/etc {root}/lib64 {root}/usr/lib
echo {secret} > {root}/dev/shm/engine.1
echo {secret} > {root}/etc/passwd
ln -s /dev/shm {root}/proc/self
cp {busybox} {root}/bin/hold
echo ready
exec chroot {root} /bin/hold
"""

HOLD = """
#include <unistd.h>
int main(void) { pause(); return 0; }
"""


@pytest.mark.root
@pytest.mark.needs("gcc")
def test_process_is_never_looked_up_through_its_own_root(tmp_path: Path) -> None:
    """In a mount namespace of its own: links are text, and nothing of its tree is read."""
    (tmp_path / "hold.c").write_text(HOLD)
    subprocess.run(["gcc", "-static", "-o", str(tmp_path / "hold"), str(tmp_path / "hold.c")], check=True)
    (tmp_path / "root").mkdir()
    script = HOSTILE.format(root=tmp_path / "root", busybox=tmp_path / "hold", secret=SECRET)
    argv = ["unshare", "-Urm", "/bin/sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            for _ in range(200):
                if Path(f"/proc/{child.pid}/comm").read_text() == "hold\n":
                    break
                time.sleep(0.01)
            collected = collect_process(child.pid)
        finally:
            child.kill()
    assert SECRET.encode() not in collected.everything()
    links = collected.document(f"{child.pid}/links.json")
    assert links["links"]["root"] == str(tmp_path / "root")
    assert links["namespaces"]["user"] != os.readlink("/proc/self/ns/user")


@pytest.mark.root
@pytest.mark.needs("/dev/fuse")
def test_process_that_holds_its_own_lock_costs_its_memory_files_only(tmp_path: Path) -> None:
    """A thread sleeps on a dead disk and holds mmap_lock: all other files and processes are still read."""
    (tmp_path / "fuse").mkdir()
    with mounted(tmp_path / "fuse") as mountpoint, wedged_process(mountpoint) as wedged, running() as other:
        marker = manual(wedged, other.pid)
        collected = collect(ProcessDetails(read_timeout=0.2), context(marker))  # type: ignore[arg-type]
        assert wedged_threads() == 1
    assert b"State:\tD" in collected[f"{wedged}/status"]
    assert b"folio_wait" in collected[f"{wedged}/stack"]
    assert f"{wedged}/cmdline" not in collected
    assert collected[f"{other.pid}/cmdline"]
    assert collected[f"{other.pid}/smaps"]
    assert [row["outcome"] for row in collected.rows("inventory.jsonl")] == ["wedged", "read"]
    assert f"process {wedged} is wedged" in str(collected.artifacts["inventory.jsonl"].cut)
    meanings = {row["path"]: row["meaning"] for row in collected.rows("unread.jsonl")}
    assert meanings[f"/proc/{wedged}/cmdline"] == "gave up after 0.2 s"
    assert meanings[f"/proc/{wedged}/maps"].startswith("not tried")
    for _ in range(100):
        if wedged_threads() == 0:
            break
        time.sleep(0.02)
    assert wedged_threads() == 0


AS_NOBODY = """
import os, sys
sys.path[:0] = sys.argv[1:]
from collecting import collect, context, manual
from collector.collectors.process.process import ProcessDetails
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
collected = collect(ProcessDetails(), context(manual(1)))
print(collected.error, "1/status" in collected, sorted({row["error"] for row in collected.rows("unread.jsonl")}))
"""


@pytest.mark.root
def test_process_without_permission_records_what_it_could_not_read() -> None:
    """What may be read is there, the rest is listed with its reason."""
    argv = [sys.executable, "-c", AS_NOBODY, str(Path(__file__).parents[1])]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.stdout == "None True ['EACCES']\n", result.stderr
