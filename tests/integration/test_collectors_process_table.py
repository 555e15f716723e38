from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from collecting import collect, context, manual
from crowd import crowd
from hanging_fuse import mounted, wait_for_state, wedged_process

from collector.collectors.process.process import ProcessDetails
from collector.collectors.process_table.process_table import ProcessTable
from collector.host import guarded_read
from collector.model.redaction import Redaction

NOBODY = 65534
SECRET = "hunter2-correct-horse"
NAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def named(comm: bytes, *arguments: bytes | str) -> Iterator[int]:
    """Run a process that calls itself *comm*."""
    argv = [sys.executable, "-c", NAMED, comm.hex(), *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        wait_for_state(child.pid, "S")  # it may not have come to wait for its input yet
        yield child.pid
        child.stdin.close()


def test_process_table_lists_this_process_as_ps_does() -> None:
    """The numbers that do not change are the same as in ps."""
    columns = ("pid", "ppid", "uid", "comm", "nlwp", "ni", "cgroup")
    table = collect(ProcessTable()).table("processes.tsv")
    (row,) = [row for row in table if row["pid"] == str(os.getpid())]
    shown = subprocess.run(
        ["ps", "-o", ",".join(f"{name}=" for name in columns[:6]), "-p", row["pid"]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert shown == [row["pid"], row["ppid"], row["uid"], row["comm"], row["threads"], row["nice"]]
    assert int(row["rss_kib"]) > 1000
    assert row["state"] == "R"
    assert int(row["start_ticks"]) > 0
    assert row["cgroup"].startswith("/")


def test_process_table_has_every_process() -> None:
    """Each once; all those that live before and after are there."""
    before = {name for name in os.listdir("/proc") if name.isdigit()}
    listed = [row["pid"] for row in collect(ProcessTable()).table("processes.tsv")]
    after = {name for name in os.listdir("/proc") if name.isdigit()}
    assert before & after <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    "comm", [b"a) R 1\nUid: 0", b"tab\there", b"\x1b[2Jclear", b"\xff\xfe", b"(((", b"back\\slash"]
)
def test_process_table_is_not_deceived_by_a_name(comm: bytes) -> None:
    """One process, one line, its own numbers, whatever it calls itself."""
    with named(comm) as pid:
        table = collect(ProcessTable()).table("processes.tsv")
    (row,) = [row for row in table if row["pid"] == str(pid)]
    assert (row["ppid"], row["uid"], row["state"]) == (str(os.getpid()), str(os.geteuid()), "S")
    assert row["comm"].isprintable()
    assert len({len(row) for row in table}) == 1


def test_process_table_shows_hostile_arguments_on_one_line_each() -> None:
    """Line breaks, tabs, terminal escapes and invalid UTF-8 in a command line."""
    with named(b"x", b"a\nb\tc\x1b[2J\xff") as pid:
        table = collect(ProcessTable()).table("commands.tsv")
    (row,) = [row for row in table if row["pid"] == str(pid)]
    assert row["args"].endswith(r"a\x0ab\x09c\x1b[2J\xff")


def test_process_table_hides_secrets_in_arguments() -> None:
    """On by default; off if the operator says so."""
    with named(b"x", "--token", SECRET, f"--db-password={SECRET}") as pid:
        assert SECRET.encode() not in collect(ProcessTable()).everything()
        shown = collect(ProcessTable(), context(redaction=Redaction(enabled=False))).table("commands.tsv")
    assert any(SECRET in row["args"] for row in shown if row["pid"] == str(pid))


def test_process_table_commands_are_those_of_the_table() -> None:
    """PID and start time together join the two files."""
    collected = collect(ProcessTable())
    starts = {row["pid"]: row["start_ticks"] for row in collected.table("processes.tsv")}
    commands = collected.table("commands.tsv")
    (own,) = [row for row in commands if row["pid"] == str(os.getpid())]
    assert starts[own["pid"]] == own["start_ticks"]
    assert "python" in own["args"]


@pytest.mark.root
@pytest.mark.needs("/dev/fuse")
def test_process_table_is_whole_though_one_process_holds_its_lock(tmp_path: Path) -> None:
    """ps would hang; here the table has the process, and only its command line is missing."""
    (tmp_path / "fuse").mkdir()
    with mounted(tmp_path / "fuse") as mountpoint, wedged_process(mountpoint) as wedged, named(b"after") as after:
        collected = collect(ProcessTable(read_timeout=0.1))  # type: ignore[arg-type]
    states = {row["pid"]: row["state"] for row in collected.table("processes.tsv")}
    commands = {row["pid"] for row in collected.table("commands.tsv")}
    assert states[str(wedged)] == "D"
    assert str(wedged) not in commands
    assert str(after) in commands
    assert f"/proc/{wedged}/cmdline" in {row["path"] for row in collected.rows("unread.jsonl")}  # others end meanwhile
    assert "processes were not read" in str(collected.artifacts["commands.tsv"].cut)


@pytest.mark.root
@pytest.mark.needs("/dev/fuse")
def test_process_that_holds_its_lock_costs_the_processes_of_others_nothing() -> None:
    """One user has more of them than there are threads to read with: of the others, all command lines are there."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, ExitStack() as stack:
        Path(directory).chmod(0o755)
        wedged = []
        for number in range(guarded_read.MAX_WEDGED + 1):
            mountpoint = Path(directory, str(number))
            mountpoint.mkdir()
            stack.enter_context(mounted(mountpoint))
            wedged.append(stack.enter_context(wedged_process(mountpoint, user=NOBODY)))
        after = stack.enter_context(named(b"after"))
        table = collect(ProcessTable(read_timeout=0.1))  # type: ignore[arg-type]
        details = collect(ProcessDetails(read_timeout=0.1), context(manual(*wedged, after)))  # type: ignore[arg-type]
    assert str(after) in {row["pid"] for row in table.table("commands.tsv")}
    meanings = [row["meaning"] for row in table.rows("unread.jsonl") if int(row["path"].split("/")[2]) in wedged]
    assert len(meanings) == len(wedged)
    assert meanings.count(f"not tried: other processes of uid {NOBODY} hold their locks") == len(wedged) - 2
    outcomes = {row["pid"]: row["outcome"] for row in details.rows("inventory.jsonl")}
    assert outcomes[after] == "read"
    assert [outcomes[pid] for pid in wedged] == ["wedged"] * 2 + ["partial"] * (len(wedged) - 2)


def test_process_table_gives_up_command_lines_when_too_many_reads_are_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file is complete; the second says why it is not."""
    monkeypatch.setattr("collector.host.guarded_read.MAX_WEDGED", 0)
    collected = collect(ProcessTable())
    assert len(collected.table("processes.tsv")) > 2
    assert collected.artifacts["commands.tsv"].cut == "not tried: 0 reads are stuck already"


def test_process_table_ends_in_time_with_what_it_has() -> None:
    """If time is short, the first file is complete and the second one says that it is not."""
    collected = collect(ProcessTable(), context(timeout_s=1.0))
    assert len(collected.table("processes.tsv")) > 2
    assert collected.artifacts["commands.tsv"].cut == "the step's time was used up"


MEASURE = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
from collecting import context
from collector.collectors.process.process import ProcessDetails
from collector.collectors.process_table.process_table import ProcessTable
from collector.host import guarded_read
lines, started = 0, time.process_time()
for artifact in ProcessTable().collect(context()):
    for piece in artifact.body:
        lines += piece.count(b"\\n")
print(lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, round(time.process_time() - started, 3))
"""


@pytest.mark.slow
def test_process_table_takes_no_more_memory_for_ten_thousand_processes(tmp_path: Path) -> None:
    """It is streamed: the same peak for a hundred and for ten thousand processes (4 MiB of slack for the allocator)."""
    small = measure()
    with crowd(tmp_path, 10_000):
        large = measure()
    assert large[0] >= small[0] + 2 * 10_000
    assert large[1] - small[1] <= 4096


def measure() -> tuple[int, int]:
    """Return lines and peak RSS in KiB of one process table, taken by a fresh process."""
    argv = [sys.executable, "-c", MEASURE, str(Path(__file__).parents[1])]
    lines, peak_kib, cpu_s = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    print(f"{lines} lines, {peak_kib} KiB, {cpu_s} s of CPU")
    return int(lines), int(peak_kib)


WRITERS = """
import os, sys, threading
def write(path):
    with open(path, "wb") as file:
        file.write(b"x")
for number in range(2):
    threading.Thread(target=write, args=(f"{sys.argv[1]}/{number}",), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.mark.root
def test_process_table_has_the_kernel_stacks_of_threads_that_wait_for_a_frozen_disk(tmp_path: Path) -> None:
    """The first thread sleeps as any does; the writers behind it are in D, and nothing in the table would say so."""
    argv = [sys.executable, "-c", WRITERS, str(tmp_path / "mounted")]
    with (
        frozen(tmp_path) as mountpoint,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer,
    ):
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        threads = {int(name) for name in os.listdir(f"/proc/{writer.pid}/task")} - {writer.pid}
        for thread in threads:
            wait_for_state(thread, "D")
        wait_for_state(writer.pid, "S")
        try:
            collected = collect(ProcessTable())
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(mountpoint)], check=True)
            writer.communicate(b"")
    found = {row["tid"]: row for row in collected.rows("blocked.jsonl") if row["pid"] == writer.pid}
    assert set(found) == threads
    for row in found.values():
        assert (row["state"], row["comm"][:6]) == ("D", "python")
        assert "openat" in row["stack"]
        assert row["wchan"] not in {"", "0"}
        assert row["syscall"].split()[0].isdigit()


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[Path]:
    """Mount an ext4 of 16 MiB and freeze it; whoever uses it thaws it."""
    image, mountpoint = directory / "image", directory / "mounted"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mountpoint)], check=True)
    try:
        subprocess.run(["fsfreeze", "--freeze", str(mountpoint)], check=True)
        try:
            yield mountpoint
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(mountpoint)], stderr=subprocess.DEVNULL, check=False)
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def test_process_table_looks_at_the_threads_of_all_users_though_one_has_very_many(tmp_path: Path) -> None:
    """Of who has more than a share, the rest is left out, and the reason names him."""
    crowds = dict.fromkeys(range(10, 20), 1000) | {20: 1001}
    for pid, uid in crowds.items():
        _fake_process(tmp_path, pid, uid, threads=30)
    (tmp_path / "proc/uptime").write_text("9 9\n", encoding="utf-8")
    collected = collect(ProcessTable(), context(root=str(tmp_path)))
    assert 20 in {row["pid"] for row in collected.rows("blocked.jsonl")}
    assert "not looked at (uid 1000: " in str(collected.artifacts["blocked.jsonl"].cut)


def test_process_table_says_whose_stacks_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a lock is held, the task is missing from its own file, not from the command lines."""
    _fake_process(tmp_path, 10, 1000, threads=2)
    (tmp_path / "proc/uptime").write_text("9 9\n", encoding="utf-8")
    monkeypatch.setattr("collector.collectors.process_table.blocked._task", lambda *_: time.sleep(0.5))
    collected = collect(ProcessTable(read_timeout=0.05), context(root=str(tmp_path)))  # type: ignore[arg-type]
    assert "1 tasks were not read" in str(collected.artifacts["blocked.jsonl"].cut)
    assert collected.artifacts["commands.tsv"].cut is None
    assert [row["path"] for row in collected.rows("unread.jsonl")] == ["/proc/10/task/1001/stack"]


def _fake_process(root: Path, pid: int, uid: int, threads: int) -> None:
    """Make a process below another root, whose last thread is blocked."""
    for number in range(threads):
        tid = pid * 100 + number
        state = "D" if number == threads - 1 else "S"
        for directory in (root / f"proc/{pid}", root / f"proc/{pid}/task/{tid}"):
            directory.mkdir(parents=True, exist_ok=True)
            numbers = ["0"] * 40
            numbers[16] = str(threads)
            first = "S" if directory.parent.name == "proc" else state
            (directory / "stat").write_text(f"{tid} (fake) {first} " + " ".join(numbers), encoding="utf-8")
    (root / f"proc/{pid}/stat").write_text(f"{pid} (fake) S " + " ".join(numbers), encoding="utf-8")
    (root / f"proc/{pid}/status").write_text(f"Name:\tfake\nUid:\t{uid}\t{uid}\n", encoding="utf-8")
