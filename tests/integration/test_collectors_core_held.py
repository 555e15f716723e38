"""The core of a process that the kernel holds, compared by gdb with the one that the kernel sends in full."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from collecting import Collected, context, take
from held import held
from machine import compiled, need

from collector.collectors.core.core import Core
from collector.collectors.core.dump_content import HURRY_BYTES, CoreCompression, CoreContent
from collector.host.core_stream import CoreStream, DumpHead, read_head
from collector.model.artifact import Artifact, Incoming, Instead, Truncated

pytestmark = pytest.mark.root
PYTHON = """
import ctypes, json, lzma, sqlite3, threading, time
ready = threading.Barrier(20)
def deep(n):
    if n:
        return deep(n - 1)
    ready.wait()
    time.sleep(600)
for number in range(19):
    threading.Thread(target=deep, args=(number % 5,), daemon=True).start()
ready.wait()
time.sleep(0.05)
ctypes.memset(0x1234, 1, 1)
"""


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("root")
    return compiled(Path(__file__).parents[1] / "crashing.c", tmp_path_factory.mktemp("crashing"), *OPTIONS)


OPTIONS = ("-g", "-pthread", "-fno-inline", "-fno-optimize-sibling-calls")


def received(body: Incoming) -> bytes:
    """Receive a dump to its end."""
    return body.head + b"".join(iter(lambda: os.read(body.fd, 1 << 20), b""))


def collect_held(
    program: list[str | Path],
    *,
    hurry: str = "",
    timeout_s: float = 30.0,
    full: Callable[[Incoming], bytes] = received,
    **keys: object,
) -> tuple[Collected, Artifact]:
    """Collect the core of *program*, which crashes, while it is held; return also the artifact ``core``."""
    collected = Collected()
    with held(program, hurry=hurry) as process:
        ctx = dataclasses.replace(context(timeout_s=timeout_s), held=process)
        for artifact in Core(**keys).collect(ctx):  # type: ignore[arg-type]
            if isinstance(artifact.body, Incoming):
                artifact = dataclasses.replace(artifact, body=full(artifact.body))
            collected.artifacts[str(artifact.path)] = take(artifact)
    return collected, collected.artifacts["core"].artifact


def both(program: list[str | Path], directory: Path) -> tuple[Path, Path]:
    """Return the stacks and the whole core of one crash."""
    stacks, whole = directory / "stacks", directory / "whole"

    def keep(body: Incoming) -> bytes:
        assert body.instead is not None
        stacks.write_bytes(joined(body.instead("the gate ends it", None)))
        whole.write_bytes(received(body))
        return b""

    collect_held(program, full=keep)
    return stacks, whole


def joined(instead: Instead) -> bytes:
    return b"".join(map(bytes, instead.pieces))


def gdb(program: str | Path, core: Path, frames: str = "") -> list[str]:
    """Return what gdb says about all threads and libraries, its warnings too."""
    need("gdb")
    commands = ("set style enabled off", f"thread apply all bt {frames}", "info sharedlibrary", "info auxv")
    arguments = [part for command in commands for part in ("-ex", command)]
    done = subprocess.run(["gdb", "-batch", "-nx", *arguments, program, core], capture_output=True, check=True)
    return [*done.stdout.decode(errors="replace").splitlines(), *done.stderr.decode(errors="replace").splitlines()]


def frames_of(lines: list[str], function: str) -> int:
    return sum(f" {function} (" in line for line in lines)


def test_stacks_give_gdb_the_backtraces_of_the_whole_core(crashing: Path, tmp_path: Path) -> None:
    """Every line: 20 threads, their frames with arguments, the libraries."""
    stacks, whole = both([crashing, "threads", "20"], tmp_path)
    lines = gdb(crashing, stacks)
    assert lines == gdb(crashing, whole)
    assert sum(line.startswith("Thread ") for line in lines) == 20
    assert (frames_of(lines, "waiting"), frames_of(lines, "main")) == (19, 1)
    assert stacks.stat().st_size < 1 << 20


def test_stacks_of_python_give_gdb_the_backtraces_of_the_whole_core(tmp_path: Path) -> None:
    """It loads its libraries as it runs: their list is in the heap."""
    script = tmp_path / "crash.py"
    script.write_text(PYTHON, encoding="utf-8")
    python = Path(sys.executable).resolve()
    stacks, whole = both([python, script], tmp_path)
    lines = gdb(python, stacks)
    assert lines == gdb(python, whole)
    assert sum(line.startswith("Thread ") for line in lines) == 20
    assert any("libffi" in line for line in lines)
    assert any("ffi_call" in line for line in lines)
    assert stacks.stat().st_size < 3 << 20


@pytest.mark.parametrize(
    ("way", "function"),
    [
        ("handler", "crash"),
        ("handler-of-thread", "crash_in_handler"),
        ("circle", "crash"),
        ("nowhere", "crash"),
        ("long-name", "crash"),
        ("secret", "crash"),
        ("no-stack", ""),
        ("code", "main"),
    ],
)
def test_stacks_of_an_odd_process_give_the_backtraces_of_the_whole_core(
    crashing: Path, tmp_path: Path, way: str, function: str
) -> None:
    """A handler on its own stack, code that is in no file; a process that lies about its libraries, or has no stack."""
    stacks, whole = both([crashing, way], tmp_path)
    lines = gdb(crashing, stacks)
    assert lines == gdb(crashing, whole)
    assert not function or frames_of(lines, function)
    assert stacks.stat().st_size < 1 << 20


def test_stack_that_ran_over_is_cut_at_its_top(crashing: Path, tmp_path: Path) -> None:
    """The stack pointer has left its mapping; the innermost frames are the ones that tell."""
    stacks, whole = both([crashing, "overflow"], tmp_path)
    assert gdb(crashing, stacks, "500") == gdb(crashing, whole, "500")
    _, core = collect_held([crashing, "overflow"], content=CoreContent.STACKS)
    assert core.truncated == "stacks that are cut: 1"


def test_memory_that_is_not_to_be_dumped_is_not_in_the_stacks(crashing: Path, tmp_path: Path) -> None:
    """MADV_DONTDUMP: a library's name that leads into a secret does not bring it into the core."""
    stacks, _ = both([crashing, "secret"], tmp_path)
    assert b"x" * 512 not in stacks.read_bytes()


def test_notes_are_the_same_whatever_is_taken(crashing: Path) -> None:
    """As the kernel sends them, byte by byte, for each thread its own registers."""
    for content in CoreContent:
        collected, core = collect_held([crashing, "threads", "3"], content=content)
        assert core.truncated == ""
        summary = collected.document("core.json")
        assert (summary["received"], summary["content"], summary["threads"]) == ("socket", content, 3)
        head = parsed(collected["core"])
        assert summary["signal"]["fault_address"] == "0x1234"
        rows = collected.rows("threads.jsonl")
        assert int(rows[0]["registers"]["rip"], 16).to_bytes(8, "little") in bytes(head.notes)
        assert str(crashing) in [row["path"] for row in collected.rows("mapped_files.jsonl")]
        assert summary["memory_bytes"] == sum(segment.memory_bytes for segment in head.segments())


def parsed(core: bytes) -> DumpHead:
    """Read a core as a stream."""
    with os.fdopen(os.memfd_create("core"), "w+b") as file:
        file.write(core)
        file.seek(0)
        return read_head(CoreStream(file.fileno(), deadline_s=float("inf")))


def test_stacks_hold_the_kernels_notes_verbatim(crashing: Path, tmp_path: Path) -> None:
    stacks, whole = both([crashing, "threads", "5"], tmp_path)
    assert parsed(stacks.read_bytes()).notes == parsed(whole.read_bytes()).notes


def test_full_core_is_announced_with_its_size_and_limits(crashing: Path) -> None:
    """The engine gets the stream as it is: what was read of it comes first."""
    bodies: list[Incoming] = []

    def keep(body: Incoming) -> bytes:
        bodies.append(body)
        return received(body)

    collected, _ = collect_held([crashing, "plain"], full=keep, max_bytes=1 << 30, compress=CoreCompression.ZSTD)
    assert (bodies[0].limit_bytes, bodies[0].compress, bodies[0].holes) == (1 << 30, True, True)
    assert bodies[0].size_bytes == len(collected["core"]) == collected.document("core.json")["size_bytes"]


@pytest.mark.parametrize("content", ["full", "stacks"])
def test_core_in_a_hurry_is_a_part_of_the_stacks(crashing: Path, content: str) -> None:
    """Of 1,000 threads: within the memory for light evidence, the crashed thread first, and the reason is given."""
    collected, core = collect_held([crashing, "threads", "1000"], hurry="memory is short", content=CoreContent(content))
    assert ("memory is short" in core.truncated) is (content == "full")
    assert "the notes of some threads were left out" in core.truncated
    assert len(collected["core"]) <= HURRY_BYTES + (256 << 10)
    assert collected.document("core.json")["content"] == "stacks"


def test_full_core_that_comes_too_slowly_is_its_present_pages(crashing: Path, tmp_path: Path) -> None:
    """A heap of 1 GiB of which half a MiB is used: what is there is kept, and gdb reads it."""
    taken: list[Instead] = []
    collect_held([crashing, "sparse", "1024"], full=instead_of(1 << 20, taken))
    assert taken[0].reason == "taken as its present pages: it is too slow"
    data = joined(taken[0])
    assert len(data) < 16 << 20
    assert data.count(b"y" * 4096) == 128
    (tmp_path / "core").write_bytes(data)
    assert frames_of(gdb(crashing, tmp_path / "core"), "crash") == 5  # one of them where gdb begins


def instead_of(rate: float, taken: list[Instead]) -> Callable[[Incoming], bytes]:
    """Return what ends a core that comes at *rate*, and keeps in *taken* what there is instead."""

    def end(body: Incoming) -> bytes:
        assert body.instead is not None
        instead = body.instead("it is too slow", rate)
        taken.append(Instead([joined(instead)], instead.reason))
        return b""

    return end


def test_stacks_are_written_after_the_process_was_let_go(crashing: Path) -> None:
    """They are in memory: a slow disk must not cost them, nor hold the process."""
    with held([crashing, "threads", "20"]) as process:
        artifacts = Core(content=CoreContent.STACKS).collect(dataclasses.replace(context(), held=process))
        next(artifacts)
        process.release("it was read")
        process.deadline_s = 0.0
        cores = [take(artifact) for artifact in artifacts if str(artifact.path) == "core"]
    assert (cores[0].cut, len(list(parsed(cores[0].data).segments())) > 20) == (None, True)


def test_present_pages_end_when_the_process_must_be_let_go(crashing: Path) -> None:
    with held([crashing, "sparse", "1024"]) as process:
        for artifact in Core().collect(dataclasses.replace(context(), held=process)):
            if isinstance(artifact.body, Incoming):
                assert artifact.body.instead is not None
                instead = artifact.body.instead("it is too slow", 1e9)
                process.deadline_s = 0.0
                with pytest.raises(Truncated, match="could not be held any longer"):
                    joined(instead)


def test_full_core_whose_pages_do_not_come_in_time_either_is_its_stacks(crashing: Path) -> None:
    taken: list[Instead] = []
    collect_held([crashing, "sparse", "1024"], full=instead_of(1000.0, taken))
    assert taken[0].reason.startswith("taken as `stacks`: it is too slow")
    assert len(joined(taken[0])) < 1 << 20


def test_core_of_pages_ends_at_max_bytes(crashing: Path) -> None:
    collected, _ = collect_held([crashing, "threads", "20"], content=CoreContent.STACKS, max_bytes=100_000)
    assert len(collected["core"]) == 100_000
    assert collected.artifacts["core"].cut == "only the first 100000 bytes were kept: `max_bytes`"


def test_process_that_is_gone_leaves_its_notes(crashing: Path) -> None:
    """The gate ends the stream, and the process died meanwhile: its registers are kept."""
    kept = []
    with held([crashing, "plain"]) as process:
        ctx = dataclasses.replace(context(), held=process)
        for artifact in Core().collect(ctx):
            if isinstance(artifact.body, Incoming):
                assert artifact.body.instead is not None
                process.release("it is let go")
                kept.append(joined(artifact.body.instead("the gate ends it", None)))
    assert parsed(kept[0]).header.note_bytes > 1000
