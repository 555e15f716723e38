"""Backtraces of real cores, compared with eu-stack; and what the process that makes them may do."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fake_core
import fake_report
import psutil
import pytest
from collecting import context, take
from crashes import archive_core, archived, kernel_core, open_core
from held import held
from machine import compiled, need, tmpfs

from collector.archive.read import ArchiveReader
from collector.collectors.core.core import Core
from collector.collectors.core.dump_content import CoreContent
from collector.collectors.core.summary import CoreSummary
from collector.host import unpack
from collector.host.compression import zstd
from collector.host.filesystem import cached_pages, flush_and_drop
from collector.model.decode import decode
from collector.report import unpacked_core
from collector.report.archived_core import ArchivedCore, ArchivedThread, archived_core
from collector.report.backtraces import NO_LIBDW, NOT_HERE, backtraces
from collector.report.debugger import program_of
from collector.report.libdw import PROTOTYPES
from collector.report.module_files import DEBUG_DIRECTORY
from collector.report.trace_text import trace_lines
from collector.report.traces import ARCHIVED, LIBDW, REGISTERS, Backtraces, ThreadTrace

pytestmark = [pytest.mark.root, pytest.mark.needs("gcc", "eu-stack")]
TESTS = Path(__file__).parents[1]
NOT_THERE = "libdw-that-is-not-there.so.1"
NOBODY = 65534
PYTHON = "import ctypes; ctypes.memset(0x1234, 1, 1)"
VDSO = """
#include <time.h>
int main(void) { return clock_gettime(CLOCK_MONOTONIC, (struct timespec *)0x1234) ? *(volatile int *)0 : 0; }
"""
JUMPING = """
static void call_back(void)
{
    void (*volatile nothing)(void) = (void (*)(void))TARGET;
    nothing();
}
int main(void)
{
    call_back();
    return 0;
}
"""
CXX = """
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>
namespace shop {
template <typename T> struct Book {
    std::vector<T> orders;
    const T &match(const T &key)
    {
        return *std::find_if(orders.begin(), orders.end(),
            [&](const T &one) { return one == key ? abort(), true : false; });
    }
    __attribute__((noinline)) long price(const T &key) { return match(key).size() + 1; }
};
}
int main()
{
    shop::Book<std::string> book{{"a", "b"}};
    return book.price("b");
}
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cores")


@pytest.fixture(scope="module")
def crashing(room: Path) -> Path:
    return compiled(TESTS / "crashing.c", room, "-g", "-pthread", "-fno-inline", "-fno-optimize-sibling-calls")


@pytest.fixture(scope="module")
def inlined(room: Path) -> Path:
    return compiled(TESTS / "inlined.c", room, "-O2", "-g", "-fomit-frame-pointer")


@pytest.fixture(scope="module")
def core(inlined: Path, room: Path) -> Path:
    return kernel_core([inlined], room / "core.inlined")


def traces_of(core: Path, **how: object) -> Backtraces:
    with open_core(core) as opened:
        return backtraces(opened, **how)  # type: ignore[arg-type]


def functions(thread: ThreadTrace) -> list[str]:
    return [frame.function for frame in thread.frames]


def eu_stack(core: Path) -> list[list[tuple[str, str]]]:
    """Return what eu-stack says of each thread: function and module of each frame."""
    command = ["eu-stack", "-i", "-m", "-b", "-n", "0", f"--core={core}"]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    threads: list[list[tuple[str, str]]] = []
    for line in done.stdout.decode().splitlines():
        if line.startswith("TID "):
            threads.append([])
        elif found := re.match(r"#\d+ +0x[0-9a-f]+(?: +(?!- )(.*?))?(?: +- (.*))?$", line):
            threads[-1].append((found[1] or "", found[2] or ""))
    return threads


def compared(core: Path) -> Backtraces:
    """Assert that frames and functions are those of eu-stack, also in number; return them."""
    found = traces_of(core)
    assert (found.by, found.problem) == (LIBDW, "")
    theirs = [[name.partition("(")[0] for name, _ in thread] for thread in eu_stack(core)]
    ours = [[frame.function.partition("(")[0] for frame in thread.frames] for thread in found.threads]
    assert ours == [thread[: len(mine)] for thread, mine in zip(theirs, ours, strict=True)]
    return found


def test_frames_are_those_of_optimized_code_with_what_was_inlined(core: Path) -> None:
    """With -O2 and without frame pointers: function, file and line, and who inlined it."""
    (thread,) = compared(core).threads
    assert functions(thread)[:6] == ["price_order", *["match_book"] * 4, "main"]
    first, second = thread.frames[:2]
    assert (first.inlined, second.inlined, first.offset) == (True, False, second.offset)
    assert re.search(r"inlined\.c:12$", first.source)
    assert re.search(r"inlined\.c:17$", second.source)
    assert thread.ended == ""


@pytest.mark.parametrize("way", [["threads", "50"], ["handler-of-thread"], ["handler"], ["code"], ["no-stack"]])
def test_frames_agree_with_eu_stack(crashing: Path, tmp_path: Path, way: list[str]) -> None:
    """Many threads, the crashed one first; a handler on its own stack, through abort; code in no file; no stack."""
    found = compared(kernel_core([crashing, *way], tmp_path / "core"))
    if way[0] == "threads":
        assert len(found.threads) == 50
        assert "crash" in functions(found.threads[0])


@pytest.mark.parametrize("target", ["0", "0x123456"])
def test_frames_of_a_jump_to_where_no_code_is_name_who_jumped(tmp_path: Path, target: str) -> None:
    """libdw, as eu-stack, goes on by the frame pointer, and leaves out the one function that is to blame."""
    source = tmp_path / "jumping.c"
    source.write_text(JUMPING.replace("TARGET", target), encoding="utf-8")
    program = compiled(source, tmp_path, "-O0", "-g")
    with archived(kernel_core([program], tmp_path / "core"), tmp_path / "archive") as opened:
        (thread,) = backtraces(opened).threads
    assert functions(thread)[:4] == ["", "call_back", "main", "__libc_start_call_main"]
    assert thread.frames[1].source.endswith("jumping.c:5")


def test_frames_of_a_static_program_and_of_python_agree_with_eu_stack(tmp_path: Path) -> None:
    """No libraries at all, and many."""
    compared(kernel_core([compiled(TESTS / "inlined.c", tmp_path, "-static", "-g")], tmp_path / "core"))
    (thread,) = compared(kernel_core([sys.executable, "-c", PYTHON], tmp_path / "core")).threads
    assert "_PyEval_EvalFrameDefault" in functions(thread)


@pytest.mark.needs("g++")
def test_frames_of_cxx_are_demangled(tmp_path: Path) -> None:
    """Templates and lambdas that were inlined have the names of the source."""
    source = tmp_path / "book.cc"
    source.write_text(CXX, encoding="utf-8")
    subprocess.run(["g++", "-O2", "-g", "-o", tmp_path / "book", source], check=True)
    (thread,) = traces_of(kernel_core([tmp_path / "book"], tmp_path / "core")).threads
    text = "\n".join(functions(thread))
    assert "::match(" in text
    assert "{lambda(" in text
    assert "_Z" not in text
    assert thread.frames[-1].source == ""  # _start lies between parts of the program


def test_frames_reach_out_of_the_kernels_own_library(tmp_path: Path) -> None:
    """The vdso is in no file, but in the core."""
    source = tmp_path / "clock.c"
    source.write_text(VDSO, encoding="utf-8")
    (thread,) = compared(kernel_core([compiled(source, tmp_path, "-g")], tmp_path / "core")).threads
    assert thread.frames[0].module in {"[vdso]", "clock"}  # the latter without a clock that needs no system call
    assert "main" in functions(thread)


def test_recursion_is_cut_and_shown_once(crashing: Path, tmp_path: Path) -> None:
    """A stack that ran over has 15,000 frames."""
    found = traces_of(kernel_core([crashing, "overflow"], tmp_path / "core"))
    (thread,) = found.threads
    assert len(thread.frames) == 256
    assert thread.ended == "only the innermost 256 frames are shown"
    lines = list(trace_lines(found))
    assert any("(255 times)" in line for line in lines)
    assert len(lines) < 10


def test_stripped_program_is_named_by_its_separate_debug_file(inlined: Path, tmp_path: Path) -> None:
    """Found by build-id in /usr/lib/debug; without it there are modules and offsets, but as many frames."""
    program, debug = tmp_path / "stripped", tmp_path / "debug"
    # Another build-id than that of the other tests.
    source = tmp_path / "inlined.c"
    source.write_text((TESTS / "inlined.c").read_text(encoding="utf-8") + "int only_here;\n", encoding="utf-8")
    whole = compiled(source, tmp_path, "-O2", "-g", "-fomit-frame-pointer")
    subprocess.run(["objcopy", "--only-keep-debug", whole, debug], check=True)
    subprocess.run(["strip", "-o", program, whole], check=True)
    core = kernel_core([program], tmp_path / "core")
    (bare,) = traces_of(core).threads
    assert functions(bare)[:2] == ["", ""]
    assert {frame.module for frame in bare.frames[:5]} == {"stripped"}
    with debug_file(program, debug):
        (named,) = traces_of(core).threads
    assert functions(named)[:6] == ["price_order", *["match_book"] * 4, "main"]
    assert len([frame for frame in named.frames if not frame.inlined]) == len(bare.frames)


@contextmanager
def debug_file(program: Path, debug: Path) -> Iterator[None]:
    """Install separate debug information during the block."""
    notes = subprocess.run(["eu-readelf", "-n", program], capture_output=True, check=True).stdout.decode()
    found = re.search("Build ID: ([0-9a-f]+)", notes)
    assert found
    target = Path(DEBUG_DIRECTORY, found[1][:2], f"{found[1][2:]}.debug")
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy(debug, target)
        yield
    finally:
        target.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def test_program_of_another_build_gives_no_names(crashing: Path, inlined: Path, tmp_path: Path) -> None:
    """A name from another build would be a lie: the frame is a module and an offset."""
    program = tmp_path / "engine"
    shutil.copy(inlined, program)
    core = kernel_core([program], tmp_path / "core")
    program.unlink()
    shutil.copy(crashing, program)
    (thread,) = traces_of(core).threads
    assert functions(thread)[0] == ""
    assert thread.frames[0].module == "engine"
    assert thread.frames[0].offset != "0x0"


def test_program_that_is_gone_still_has_the_frames_that_were_archived(tmp_path: Path) -> None:
    """A deployment or the end of a container takes the file that libdw unwinds by, not what was archived."""
    program = compiled(TESTS / "inlined.c", tmp_path, "-O2", "-g")
    core = kernel_core([program], tmp_path / "core")
    with archived(core, tmp_path / "archive") as opened:
        (whole,) = backtraces(opened).threads
        program.unlink()
        found = backtraces(opened)
    (thread,) = found.threads
    places = [(frame.module, frame.offset) for frame in whole.frames if not frame.inlined]
    assert [(frame.module, frame.offset) for frame in thread.frames] == places
    assert (thread.ended, found.problem) == ("", f"{NOT_HERE}: {program.name}")


def test_program_that_was_replaced_by_a_copy_of_itself_is_found(tmp_path: Path) -> None:
    """It was installed again while the process ran: the kernel marks what is mapped as deleted."""
    program = tmp_path / "engine"
    shutil.copy("/bin/sleep", program)
    again = f"{program} 9 & sleep 0.2; cp {program} {program}2; mv {program}2 {program}; kill -SEGV $!; wait"
    core = kernel_core(["sh", "-c", again], tmp_path / "core")
    with open_core(core) as opened:
        assert program_of(opened.fd, None).path == str(program)
        assert backtraces(opened).problem == ""


def test_program_without_a_build_id_is_known_by_its_first_page(tmp_path: Path) -> None:
    """As those of Go are; another program in its place is not taken for it."""
    program = compiled(TESTS / "inlined.c", tmp_path, "-g", "-Wl,--build-id=none")
    core = kernel_core([program], tmp_path / "core")
    assert functions(traces_of(core).threads[0])[0] == "price_order"
    compiled(TESTS / "inlined.c", tmp_path, "-O0", "-Wl,--build-id=none")
    assert functions(traces_of(core).threads[0])[0] == ""


@pytest.mark.parametrize("packer", ["zstd", "lz4", "xz"])
def test_compressed_core_is_unpacked_on_a_disk_and_leaves_nothing(
    core: Path, packer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has no name: whatever ends the reader, it is gone."""
    need(packer)
    packed, scratch = tmp_path / "core.packed", tmp_path / "scratch"
    packed.write_bytes(subprocess.run([packer, "-c", core], capture_output=True, check=True).stdout)
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(unpack, "MAX_UNPACKED_BYTES", 1 << 16)  # what suffices for notes
    assert traces_of(packed) == traces_of(core)
    assert list(scratch.iterdir()) == []


def test_compressed_core_is_not_unpacked_into_memory(
    core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tmpfs would take what this program protects."""
    packed = tmp_path / "core.zst"
    packed.write_bytes(zstd.compress(core.read_bytes()))
    with tmpfs(tmp_path / "scratch") as scratch:
        monkeypatch.setenv("TMPDIR", str(scratch))
        found = traces_of(packed)
    assert (found.by, found.threads) == (REGISTERS, ())
    assert "is in memory: the core is not unpacked there" in found.problem


def test_compressed_core_leaves_room_on_the_disk(core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a small file unpacks to."""
    packed = tmp_path / "core.zst"
    packed.write_bytes(zstd.compress(core.read_bytes()))
    monkeypatch.setattr(unpacked_core, "SPARE_BYTES", 1 << 60)
    assert "left: the core is not unpacked" in traces_of(packed).problem


def test_threads_are_limited(tmp_path: Path) -> None:
    """A core of 4 MiB can claim 10,000 of them, as the kernel writes them, and more."""
    core = tmp_path / "core"
    registers = tuple(range(27))
    notes = [fake_core.note(fake_core.NT_PRSTATUS, fake_core.prstatus(n, 11, registers)) for n in range(1, 10_003)]
    notes.insert(1, fake_core.note(fake_core.NT_PRPSINFO, fake_core.prpsinfo(4000077, b"engine", b"engine")))
    core.write_bytes(fake_core.core(b"".join(notes)))
    found = traces_of(core)
    assert (found.by, len(found.threads)) == (LIBDW, 10_000)
    assert found.problem == "only the first 10000 threads are shown"


def test_without_libdw_the_archived_frames_are_shown_and_it_says_so(core: Path) -> None:
    """By those that the collector has walked, else where each thread was."""
    with open_core(core) as opened:
        rows = [ArchivedThread(tid=4000077, frames=("engine+0x10", "libc.so.6+0x20"), frames_end="no tables")]
        walked = backtraces(rows_of(opened, rows), library=NOT_THERE)
    assert walked.by == ARCHIVED
    assert walked.problem == f"{NO_LIBDW}: {ARCHIVED}"
    (thread,) = walked.threads
    assert [(frame.module, frame.offset) for frame in thread.frames] == [("engine", "0x10"), ("libc.so.6", "0x20")]
    assert thread.ended == "no tables"


def rows_of(core: ArchivedCore, rows: list[ArchivedThread]) -> ArchivedCore:
    return ArchivedCore(summary=core.summary, path=core.path, fd=core.fd, rows=lambda: tuple(rows))


def test_without_libdw_an_incident_still_says_where_its_threads_were(core: Path, tmp_path: Path) -> None:
    """From what any release has archived."""
    with archived(core, tmp_path / "archive") as opened:
        whole, bare = backtraces(opened), backtraces(opened, library=NOT_THERE)
    assert whole == traces_of(core)
    assert bare.problem.startswith(NO_LIBDW)
    assert [(one.module, one.offset) for one in bare.threads[0].frames[:1]] == [
        (whole.threads[0].frames[0].module, whole.threads[0].frames[0].offset)
    ]


def test_core_whose_description_is_damaged_is_unwound_all_the_same(core: Path, tmp_path: Path) -> None:
    incident = archive_core(core, tmp_path / "archive")
    (description,) = tmp_path.rglob("core.json")
    description.write_bytes(b"{")
    with (
        ArchiveReader(str(tmp_path / "archive")) as archive,
        archived_core(archive, incident, archive.manifest(incident)) as opened,
    ):
        assert functions(backtraces(opened).threads[0])[0] == "price_order"


def test_incident_that_kept_no_core_says_so() -> None:
    """`keep: none`."""
    core = ArchivedCore(summary=CoreSummary(path="core", size_bytes=1), path="", fd=-1, rows=lambda: ())
    assert backtraces(core).problem == "the core itself was not kept"


@pytest.mark.parametrize("content", [CoreContent.STACKS, CoreContent.NOTES])
def test_core_that_was_kept_in_part_says_what_is_missing(crashing: Path, tmp_path: Path, content: CoreContent) -> None:
    """The stacks of a core suffice for its frames; its notes say where each thread was."""
    with held([crashing, "threads", "3"]) as process:
        artifacts = Core(content=content).collect(dataclasses.replace(context(), held=process))
        kept = {str(artifact.path): take(artifact).data for artifact in artifacts}
    (tmp_path / "core").write_bytes(kept["core"])
    with open_core(tmp_path / "core") as opened:
        found = backtraces(dataclasses.replace(opened, summary=decode(kept["core.json"], CoreSummary)))
    assert (found.by, len(found.threads)) == (LIBDW, 3)
    if content is CoreContent.NOTES:
        assert "without memory: one frame of each thread" in found.problem
        assert [frame.module for frame in found.threads[0].frames] == ["crashing"]
    else:
        assert found.problem == "the core was kept as its stacks: no heap"
        assert functions(found.threads[0])[:5] == ["crash"] * 4 + ["main"]


def test_core_in_an_apport_report_gives_the_same_frames(core: Path, tmp_path: Path) -> None:
    """It is compressed and encoded there, a line for each MiB."""
    report = tmp_path / "engine.crash"
    report.write_bytes(fake_report.report(fake_report.values_of(4000077), [gzip.compress(core.read_bytes())]))
    assert traces_of(report) == traces_of(core)


def test_core_that_is_cut_off_gives_what_is_left(core: Path, tmp_path: Path) -> None:
    """The stack comes last in a core."""
    cut = tmp_path / "core"
    cut.write_bytes(core.read_bytes()[: core.stat().st_size // 2])
    found = traces_of(cut)
    assert found.by == LIBDW
    assert functions(found.threads[0])[:2] == ["price_order", "match_book"]
    assert "match_book" not in functions(found.threads[0])[2:]


@pytest.fixture
def stub(tmp_path: Path) -> Callable[[str], str]:
    """Make libraries in the place of libdw that do one thing when they are first used."""

    def make(action: str) -> str:
        source = tmp_path / "stub.c"
        entries = (f"long {name}(void) {{ {action} return 0; }}" for name in PROTOTYPES if name != "elf_version")
        included = "\n".join(f"#include <{name}.h>" for name in ("signal", "stdio", "stdlib", "unistd"))
        head = f"{included}\nlong elf_version(void) {{ return 1; }}\n"
        source.write_text(head + "\n".join(entries), encoding="utf-8")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "stub.so", source], check=True)
        return str(tmp_path / "stub.so")

    return make


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        ("abort();", "the process that unwinds ended with SIGABRT: the core may be damaged"),
        ("kill(getpid(), 9);", "the process that unwinds was killed: it took too much time or memory"),
        ("_exit(7);", "the process that unwinds ended with exit status 7: the core may be damaged"),
        ('printf("{]\\n"); fflush(stdout); _exit(0);', "the process that unwinds gave an answer that cannot be read"),
    ],
)
def test_unwinder_that_fails_is_said_and_no_more(
    core: Path, stub: Callable[[str], str], action: str, problem: str
) -> None:
    """libdw is C, and the core hostile; the kernel kills what exceeds its time, or memory if that is short."""
    assert traces_of(core, library=stub(action)).problem == problem


def test_unwinder_is_killed_at_its_deadline_or_when_it_writes_too_much(core: Path, stub: Callable[[str], str]) -> None:
    """A core that leads it in circles costs a minute, not a terminal."""
    before = {child.pid for child in psutil.Process().children()}
    late = traces_of(core, library=stub("for (;;) pause();"), timeout_s=0.5)
    assert late.problem.startswith("unwinding took too long")
    flood = "for (;;) { static char line[65536]; fwrite(line, 1, sizeof line, stdout); }"
    loud = traces_of(core, library=stub(flood))
    assert loud.problem.startswith("the process that unwinds wrote too much")
    assert {child.pid for child in psutil.Process().children()} == before


def test_threads_that_are_not_unwound_in_time_are_shown_as_they_were_archived(
    core: Path, stub: Callable[[str], str]
) -> None:
    """10,000 threads take a minute; a page does not wait for it, and says so."""
    archived_rows = tuple(ArchivedThread(tid=tid, frames=("engine+0x10",)) for tid in (1, 2, 3))
    library = stub(
        'printf("{\\"tid\\":1,\\"frames\\":[[-1,5,\\"f\\",\\"\\",0,false]]}\\n"); fflush(stdout); for (;;) pause();'
    )
    with open_core(core) as opened:
        found = backtraces(dataclasses.replace(opened, rows=lambda: archived_rows), library=library, timeout_s=0.5)
    assert found.problem == f"unwinding took too long: of the other 2 threads, the {ARCHIVED}"
    assert [(thread.tid, thread.frames[0].offset) for thread in found.threads] == [(1, "0x5"), (2, "0x10"), (3, "0x10")]


def test_core_that_was_unwound_is_not_left_in_the_page_cache(crashing: Path, room: Path) -> None:
    """A look at a crash must not take the memory of a machine that has little."""
    core = kernel_core([crashing, "threads", "3"], room / "core.cached")
    with core.open("rb") as file:
        flush_and_drop(file.fileno(), 0, core.stat().st_size)
        assert traces_of(core).by == LIBDW
        assert not cached_pages(file.fileno(), 0, core.stat().st_size)


def test_first_threads_only_are_unwound_if_that_is_asked_for(crashing: Path, room: Path) -> None:
    """A glance needs the one that crashed, and nothing is missing from it."""
    core = kernel_core([crashing, "threads", "3"], room / "core.first")
    whole, first = traces_of(core), traces_of(core, most_threads=1)
    assert len(whole.threads) == 3
    assert (first.threads, first.problem) == (whole.threads[:1], "")


def test_unwinder_has_no_rights(core: Path, stub: Callable[[str], str]) -> None:
    """Nobody, without privileges, network, files to write or children, before it reads what it was given."""
    library = stub("for (;;) pause();")
    thread = threading.Thread(target=traces_of, args=(core,), kwargs={"library": library, "timeout_s": 5.0})
    thread.start()
    try:
        child = waiting_child()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text(encoding="utf-8").splitlines()
        )
        assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
        assert (status["Groups"].strip(), status["NoNewPrivs"]) == ("", "1")
        assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
        assert os.readlink(f"/proc/{child}/ns/net") != os.readlink("/proc/self/ns/net")
        limits = Path(f"/proc/{child}/limits").read_text(encoding="utf-8")
        for name in ("Max file size", "Max processes", "Max core file size"):
            assert re.search(rf"^{name} +0 +0 ", limits, re.MULTILINE), name
        assert not re.search(r"^Max data size +unlimited", limits, re.MULTILINE)
        assert Path(f"/proc/{child}/oom_score_adj").read_text(encoding="utf-8") == "1000\n"
        assert set(Path(f"/proc/{child}/environ").read_bytes().split(b"\0")) <= {b"LC_ALL=C.UTF-8", b""}
        assert {fd for fd in os.listdir(f"/proc/{child}/fd") if is_writable(child, fd)} == {"1", "2"}
        psutil.Process(child).kill()
    finally:
        thread.join()


def test_unwinder_dies_with_its_parent(core: Path, stub: Callable[[str], str]) -> None:
    """Ctrl-C or a kill of the command leaves no process behind."""
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = [sys.argv[1]]; from crashes import open_core\n"
        "from collector.report.backtraces import backtraces\n"
        "with open_core(Path(sys.argv[2])) as core: backtraces(core, library=sys.argv[3])"
    )
    arguments = [str(TESTS), str(core), stub("for (;;) pause();")]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=TESTS.parent) as parent:
        try:
            child = psutil.Process(waiting_child(parent.pid))
        finally:
            parent.kill()
    assert psutil.wait_procs([child], timeout=20)[1] == []


def waiting_child(parent: int | None = None) -> int:
    """Return the process that unwinds for *parent*, by default this one, once it has given up its rights."""
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        for child in psutil.Process(parent).children():
            with suppress(OSError, psutil.Error):
                limits = Path(f"/proc/{child.pid}/limits").read_text(encoding="utf-8")
                if child.uids().real == NOBODY and re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE):
                    return child.pid  # the last that it gives up
        time.sleep(0.01)
    raise AssertionError("no child became nobody")


def is_writable(pid: int, fd: str) -> bool:
    flags = re.search(
        r"^flags:\s+0*([0-7]+)", Path(f"/proc/{pid}/fdinfo/{fd}").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert flags
    return int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY
