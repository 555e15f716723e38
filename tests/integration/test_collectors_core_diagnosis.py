"""Programs that die in many ways, what is said of each, and what must not be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from collecting import collect, context, core_ref, manual, take
from held import coredump_socket, next_held
from machine import compiled, core_pattern, every_fault_logged, need, tmpfs
from watching import drain, opened, trigger_context

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.core.dump_content import CoreContent
from collector.collectors.core.mapped_file_state import state_by_name
from collector.host.compression import zstd
from collector.host.elfcore import MappedFile
from collector.model.identity import HOST_MOUNTS
from collector.triggers.kernel_log import KernelLog

pytestmark = pytest.mark.root

OPTIONS = ("-fno-inline", "-fno-optimize-sibling-calls", "-fstack-protector-all", "-pthread", "-w")


class Way(NamedTuple):
    """A way to die: the kind that is said, and words that are in the sentence."""

    kind: str
    words: str
    disk: str = ""


WAYS = {
    "null-read": Way("null_pointer", "access at 0x0: a null pointer, by the code at "),
    "null-write": Way("null_pointer", "access at 0x0: a null pointer, by the code at "),
    "null-member": Way("null_pointer", "access at 0x18: a null pointer plus 0x18"),
    "null-in-thread": Way("null_pointer", " in thread "),
    "null-in-handler": Way("null_pointer", "0x18"),
    "null-call": Way("null_call", "a jump to 0x0: a call through a null pointer"),
    "map-failed": Way("negative_address", "the number -1 "),
    "before-null": Way("negative_address", "the number -8 "),
    "kernel": Way("kernel_address", "0xffffffff81000000"),
    "unmapped": Way("unmapped", "access at 0x123456789000, where nothing is mapped"),
    "low-mapping": Way("unmapped", "access at 0x18, where nothing is mapped"),
    "past-mapping": Way("past_mapping", ", 0 bytes behind the end of anonymous memory"),
    "constant": Way("write_read_only", "/dying+0x"),
    "code-write": Way("write_read_only", "/dying+0x"),
    "protected": Way("no_access", "PROT_NONE"),
    "heap-guard": Way("no_access", "PROT_NONE"),
    "below-stack": Way("unmapped", "where nothing is mapped"),
    "jump-data": Way(
        "execute_data", "in anonymous memory, which is not executable; the top of the stack leads back to "
    ),
    "jump-stack": Way("execute_data", "in anonymous memory, which is not executable"),
    "jump-nowhere": Way("execute_unmapped", "a jump to 0x123456789000, where nothing is mapped; the top"),
    "non-canonical": Way("no_address", " holds 0x5a5a5a5a5a5a5a5a)"),
    "misaligned-vector": Way("no_address", "not a null pointer"),
    "privileged": Way("no_address", "not a null pointer"),
    "bad-stack-pointer": Way("unmapped", "where nothing is mapped"),
    "overflow": Way("stack_overflow", "stack overflow: access at 0x"),
    "overflow-in-thread": Way("stack_overflow", " in thread "),
    "overflow-large-frame": Way("stack_overflow", "stack overflow: access at 0x"),
    "overflow-with-handler": Way("stack_overflow", "no room for the frame of a signal"),
    "overflow-in-handler": Way("stack_overflow", "below the stack of 64 KiB"),
    "raised-again": Way("null_pointer", "read at 0x18: a null pointer plus 0x18"),
    "raised-again-plain": Way("sent", "by the process itself, perhaps by its handler"),
    "sent-within": Way("sent", "SIGSEGV was sent by process "),
    "raised-within": Way("null_pointer", "write at 0x18: a null pointer plus 0x18"),
    "overflow-raised-again": Way("stack_overflow", "; its handler then sent SIGSEGV again"),
    "general-protection-raised-again": Way("no_address", "rax holds 0x5a5a5a5a5a5a5a5a)"),
    "recovered-and-raised": Way("sent", "by the process itself, perhaps by its handler"),
    "recovered-and-raised-deeper": Way("sent", "by the process itself, perhaps by its handler"),
    "aborted-within": Way("null_pointer", "; its handler then sent SIGABRT"),
    "truncated": Way("past_end_of_file", ", which is past its 4096 bytes: ", "plain"),
    "truncated-on-tmpfs": Way("past_end_of_file", ", which is past its 4096 bytes: ", "small"),
    "full": Way("tmpfs_full", ", within its 8388608 bytes: its tmpfs is full", "small"),
    "full-truncated": Way("past_end_of_file", "access at byte 8191 of ", "small"),
    "fault-in-file": Way("null_pointer", "0x18", "plain"),
    "huge": Way("huge_pages", "huge pages", "plain"),
    "divide": Way("divide", "an integer was divided by zero"),
    "trap": Way("illegal_instruction", "/dying+0x"),
    "breakpoint": Way("breakpoint", "a breakpoint instruction"),
    "misaligned": Way("misaligned", "misaligned access"),
    "seccomp": Way("system_call", "seccomp forbids system call 110"),
    "assert": Way("abort", "Assertion `zero == 42' failed."),
    "double-free": Way("abort", "aborted: free(): "),
    "smashed": Way("abort", "aborted: *** stack smashing detected ***: terminated"),
    "abort": Way("abort", "aborted by its own code"),
    "cpu-limit": Way("cpu_limit", "RLIMIT_CPU"),
    "file-limit": Way("file_size_limit", "RLIMIT_FSIZE", "plain"),
    "file-limit-sent": Way("sent", "SIGXFSZ was sent by the process itself"),
    "sent-segv": Way("sent", "SIGSEGV was sent by process "),
    "sent-bus": Way("sent", "SIGBUS was sent by process "),
    "sent-abort": Way("sent", "SIGABRT was sent by process "),
    "quit": Way("sent", "SIGQUIT was sent by the process itself"),
}


class Disks(NamedTuple):
    """A directory on a disk, and one on a tmpfs that is smaller than the file that the program fills."""

    plain: Path
    small: Path

    def arguments(self, way: str) -> list[str]:
        disk = getattr(self, WAYS[way].disk, None)
        return [way.removesuffix("-on-tmpfs"), *([] if disk is None else [str(disk / f"{way}.segment")])]

    def clear(self) -> None:
        for disk in self:
            for file in disk.glob("*.segment"):
                file.unlink()


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    need("root")
    plain = tmp_path_factory.mktemp("plain")
    with tmpfs(tmp_path_factory.mktemp("small"), size="1m") as small:
        yield Disks(plain, small)


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("root")
    return compiled(Path(__file__).parents[1] / "dying.c", tmp_path_factory.mktemp("dying"), *OPTIONS)


def unlimited() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, -1))


def dies(program: Path, core: Path, *arguments: str | Path) -> Path:
    """Let a program die; return its core, in the new directory *core*."""
    core.mkdir()
    with core_pattern(core / "%P"):
        return died(program, core, *arguments)


def died(program: Path, directory: Path, *arguments: str | Path) -> Path:
    """Let a program die; return its core among those of others in *directory*."""
    with subprocess.Popen([program, *arguments], preexec_fn=unlimited, stderr=subprocess.DEVNULL, cwd="/") as process:
        assert process.wait() < 0, arguments
    return directory / str(process.pid)


def said_of(core: Path, **attributes: str) -> dict[str, object]:
    """Return what is said by a core of a process that was seen in the collector's own mount namespace."""
    facts = {"mount_namespace": HOST_MOUNTS} | attributes
    marker = msgspec.structs.replace(manual(core=core_ref(str(core))), attributes=facts)
    document: dict[str, object] = collect(Core(keep=KeepCore.NONE), context(marker)).document("core.json")
    return document


def said_while_held(listening: socket.socket, program: Path, *arguments: str | Path) -> dict[str, object]:
    """Let a program die; return what is said while the kernel holds it."""
    with subprocess.Popen([program, *arguments], stderr=subprocess.DEVNULL) as process, ExitStack() as stack:
        stack.callback(process.kill)
        while (crashed := next_held(listening)).process.pid != process.pid:
            crashed.release("it is somebody else's")
        stack.callback(crashed.release, "the test is over")
        ctx = dataclasses.replace(context(), held=crashed)
        artifact = next(iter(Core(content=CoreContent.NOTES).collect(ctx)))
        document: dict[str, object] = msgspec.json.decode(take(artifact).data)
        return document


@pytest.fixture(scope="module")
def by_file(dying: Path, disks: Disks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Let the program die in every way; return what is said by the core that the kernel wrote."""
    directory = tmp_path_factory.mktemp("cores")
    found = {}
    with core_pattern(directory / "%P"):
        for way in WAYS:
            core = died(dying, directory, *disks.arguments(way))
            found[way] = said_of(core)
            core.unlink()
            disks.clear()
    return found


@pytest.fixture(scope="module")
def by_hold(dying: Path, disks: Disks) -> dict[str, dict[str, object]]:
    """Let the program die in every way; return what is said while the kernel holds it."""
    found = {}
    with coredump_socket() as listening:
        for way in WAYS:
            found[way] = said_while_held(listening, dying, *disks.arguments(way))
            disks.clear()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_diagnosis_by_a_core_is_the_way_that_the_program_died(way: str, by_file: dict[str, dict[str, object]]) -> None:
    check(way, by_file[way])


@pytest.mark.parametrize("way", WAYS)
def test_diagnosis_of_a_held_process_is_the_way_that_it_died(way: str, by_hold: dict[str, dict[str, object]]) -> None:
    check(way, by_hold[way])


def check(way: str, said: dict[str, object]) -> None:
    assert said.get("diagnosis_kind") == WAYS[way].kind, said.get("diagnosis")
    assert WAYS[way].words in str(said["diagnosis"])


LINES = {
    "null-read": ("null_pointer", "read at 0x0: a null pointer, by the code in dying["),
    "null-write": ("null_pointer", "write at 0x0: a null pointer"),
    "null-member": ("null_pointer", "read at 0x18: a null pointer plus 0x18"),
    "null-call": ("null_call", "a jump to 0x0"),
    "map-failed": ("negative_address", "the number -1 "),
    "kernel": ("kernel_address", "0xffffffff81000000"),
    "constant": ("write_read_only", "which is mapped and may not be written to"),
    "jump-data": ("execute_data", "which is not executable"),
    "jump-nowhere": ("", ""),
    "unmapped": ("", ""),
    "protected": ("", ""),
    "below-stack": ("", ""),
    "past-mapping": ("", ""),
    "non-canonical": ("general_protection", "not a null pointer"),
    "misaligned-vector": ("general_protection", "not a null pointer"),
    "privileged": ("general_protection", "not a null pointer"),
    "overflow": ("stack_pointer", "where the stack pointer is"),
    "bad-stack-pointer": ("stack_pointer", "or the pointer is wrong"),
    "divide": ("divide", "divided by zero"),
    "trap": ("illegal_instruction", "illegal instruction, by the code in dying["),
    "breakpoint": ("breakpoint", "a breakpoint instruction"),
}
"""What the kernel's line alone tells; it does not say what is mapped."""


@pytest.fixture(scope="module")
def by_line(dying: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Let the program die without a core; return what is said by the line that the kernel logs."""
    pids = {}
    trigger = KernelLog(events=("segfault",), pstore=False)
    cores = core_pattern(
        tmp_path_factory.mktemp("none") / "core"
    )  # or they would be sent to whoever has a socket there
    with cores, every_fault_logged(), opened(trigger, trigger_context(tmp_path_factory.mktemp("watch"))) as watch:
        for way in LINES:
            with subprocess.Popen([dying, way], preexec_fn=without_core) as process:
                pids[process.pid] = way
        markers = drain(watch)
    found = {}
    for marker in markers:
        if marker.process is not None and marker.process.pid in pids:
            found[pids[marker.process.pid]] = collect(Core(), context(marker)).document("core.json")
    return found


def without_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.parametrize("way", LINES)
def test_diagnosis_by_the_line_of_the_kernel_is_what_it_tells(way: str, by_line: dict[str, dict[str, object]]) -> None:
    """Read or write are known from the error code; what is mapped is not."""
    kind, words = LINES[way]
    said = by_line[way]
    assert said["problem"] == "the marker has no core file"
    assert said.get("diagnosis_kind", "") == kind, said
    assert words in str(said.get("diagnosis", ""))


def test_diagnosis_knows_a_full_disk_behind_a_mapped_file(dying: Path, tmp_path: Path) -> None:
    """A hole of a mapped file gets its block as it is written to."""
    with small_ext4(tmp_path) as disk:
        fill(disk)
        said = said_of(dies(dying, tmp_path / "core", "full", disk / "segment"))
    assert said["diagnosis_kind"] == "file_system_full", said
    assert ", within its 8388608 bytes: its ext4 is full" in str(said["diagnosis"])


def test_diagnosis_knows_that_no_huge_page_was_left(dying: Path, tmp_path: Path) -> None:
    """The pool of this machine is empty; the file is long enough."""
    need("root")
    mount("hugetlbfs", tmp_path / "huge")
    try:
        said = said_of(dies(dying, tmp_path / "core", "full-of-huge-pages", tmp_path / "huge" / "segment"))
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "huge"], check=True)
    assert said["diagnosis_kind"] == "huge_pages", said
    assert ", within its 8388608 bytes: there was no huge page for it" in str(said["diagnosis"])


@pytest.mark.parametrize("change", ["extended", "replaced", "another namespace", "renamed"])
def test_diagnosis_says_nothing_of_a_file_that_is_not_as_it_was(dying: Path, tmp_path: Path, change: str) -> None:
    """The file may have been put right, or replaced, since the crash; elsewhere its name may be another file's."""
    need("root")
    segment, other = tmp_path / "segment", tmp_path / "other"
    core = dies(dying, tmp_path / "core", "truncated", segment)
    if change == "extended":
        os.truncate(segment, 8 << 20)
    elif change == "replaced":
        other.write_bytes(bytes(100))
        other.rename(segment)
    elif change == "renamed":
        segment.rename(other)
    said = said_of(core, **({"mount_namespace": "4026532000"} if change == "another namespace" else {}))
    assert said["diagnosis_kind"] == "file_page", said
    assert "which is past its end, or in a page that its file system could not provide" in str(said["diagnosis"])


def test_diagnosis_does_not_take_a_new_file_for_the_one_that_was_cut(dying: Path, tmp_path: Path) -> None:
    """The tmpfs is full by now, but the process died of something else."""
    with tmpfs(tmp_path / "disk", size="1m") as disk:
        core = dies(dying, tmp_path / "core", "truncated", disk / "segment")
        fill(disk)
        os.truncate(disk / "filler", 8 << 20)
        (disk / "filler").rename(disk / "segment")
        said = said_of(core)
    assert said["diagnosis_kind"] == "file_page", said


def test_state_of_a_file_knows_a_tmpfs_without_a_limit(tmp_path: Path) -> None:
    """It says that it has no blocks, and none free: it is not full."""
    marker = msgspec.structs.replace(manual(), attributes={"mount_namespace": HOST_MOUNTS})
    with tmpfs(tmp_path / "unlimited", size="0") as disk:
        (disk / "segment").write_bytes(bytes(4096))
        file = MappedFile(0, 8192, 0, os.fsencode(disk / "segment"))
        with (tmp_path / "core").open("wb") as core:
            found = state_by_name(context(marker), core.fileno(), file)
    assert found is not None
    assert (found.size_bytes, found.file_system, found.free_bytes) == (4096, "tmpfs", None)


def test_diagnosis_knows_the_abort_of_a_containers_first_process(dying: Path, tmp_path: Path) -> None:
    """SIGABRT does not kill it: abort() goes on to an instruction that it may not execute, which looks like a fault."""
    need("unshare")
    with core_pattern(tmp_path / "%e"):
        command = ["unshare", "--pid", "--fork", dying, "assert"]
        subprocess.run(command, preexec_fn=unlimited, stderr=subprocess.DEVNULL, check=False)
    said = said_of(tmp_path / dying.name)
    assert said["diagnosis_kind"] == "abort"
    assert "Assertion `zero == 42' failed.; as process 1 of its PID namespace" in str(said["diagnosis"])


def test_diagnosis_of_a_deleted_file_needs_the_process(dying: Path, tmp_path: Path) -> None:
    """Its name may be another file's; the process still has the file itself."""
    need("root")
    segment = tmp_path / "segment"
    core = dies(dying, tmp_path / "core", "deleted", segment)
    segment.write_bytes(bytes(100))
    assert said_of(core)["diagnosis_kind"] == "file_page"
    with coredump_socket() as listening:
        said = said_while_held(listening, dying, "deleted", segment)
    assert said["diagnosis_kind"] == "past_end_of_file", said
    assert f"{segment} (deleted), which is past its 4096 bytes: " in str(said["diagnosis"])


def test_diagnosis_of_a_compressed_core_goes_by_its_notes(dying: Path, tmp_path: Path) -> None:
    """Its memory is not unpacked, so the message of an abort is not known."""
    need("root")
    core = dies(dying, tmp_path / "core", "null-member")
    packed = tmp_path / "core.zst"
    packed.write_bytes(zstd.compress(core.read_bytes()))
    assert said_of(packed)["diagnosis"] == said_of(core)["diagnosis"]
    packed.write_bytes(zstd.compress(dies(dying, tmp_path / "other", "assert").read_bytes()))
    assert said_of(packed)["diagnosis"] == "aborted by its own code"


def test_diagnosis_of_a_trap_knows_its_instruction_while_the_process_is_held(dying: Path) -> None:
    """The core of a file does not hold the code."""
    with coredump_socket() as listening:
        assert " (ud2: " in str(said_while_held(listening, dying, "trap")["diagnosis"])


EXCEPTIONS = {
    "runtime": ("std::runtime_error", ": no segment named engine.7"),
    "range": ("std::out_of_range", ": vector::_M_range_check: "),
    "own": ("engine::Refused", ""),
    "memory": ("std::bad_alloc", ""),
}


def test_diagnosis_of_an_abort_names_the_exception(tmp_path: Path) -> None:
    """Its text is on the heap; the name of its type in a library, which the core of a file does not hold."""
    need("root", "g++")
    program = tmp_path / "dying"
    subprocess.run(["g++", "-O1", "-o", program, Path(__file__).parents[1] / "dying.cpp"], check=True)
    with coredump_socket() as listening:
        held = {way: said_while_held(listening, program, way) for way in (*EXCEPTIONS, "caught", "virtual")}
    for way, (name, text) in EXCEPTIONS.items():
        assert held[way]["diagnosis_kind"] == "abort"
        assert str(held[way]["diagnosis"]).startswith(f"aborted with the C++ exception {name}{text}")
        assert f"aborted with a C++ exception{text}" in str(said_of(dies(program, tmp_path / way, way))["diagnosis"])
    assert held["caught"]["diagnosis"] == "aborted by its own code"
    assert held["virtual"]["diagnosis_kind"] == "null_pointer"


PYTHON = {
    "import ctypes; ctypes.string_at(0)": ("null_pointer", "/libc"),
    "import os; os.abort()": ("abort", "aborted by its own code"),
    "import sys; sys.setrecursionlimit(10**7); a = type('A', (), {'__repr__': lambda a: repr([a])}); repr(a())": (
        "stack_overflow",
        "/python",
    ),
}


@pytest.mark.parametrize("script", PYTHON)
def test_diagnosis_of_python_is_that_of_its_interpreter(script: str, tmp_path: Path) -> None:
    need("root")
    kind, words = PYTHON[script]
    said = said_of(dies(Path("/usr/bin/python3"), tmp_path / "core", "-c", script))
    assert said["diagnosis_kind"] == kind, said
    assert words in str(said["diagnosis"])


@contextmanager
def small_ext4(directory: Path) -> Iterator[Path]:
    """Mount an ext4 of 16 MiB during the block."""
    need("root", "mkfs.ext4")
    image, disk = directory / "image", directory / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> None:
    """Leave no block of a file system."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        os.fsync(file.fileno())


def mount(kind: str, path: Path) -> None:
    path.mkdir()
    subprocess.run(["mount", "-t", kind, kind, path], check=True)
