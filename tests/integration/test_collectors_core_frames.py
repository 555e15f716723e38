"""Frames, modules and signatures of real crashes; gdb is the judge of the frames."""

from __future__ import annotations

import dataclasses
import lzma
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from collecting import Collected, collect, context, core_ref, manual, take
from held import held
from machine import compiled, core_pattern, need

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.core.dump_content import CoreContent
from collector.host.compression import zstd
from collector.model.artifact import Incoming

pytestmark = pytest.mark.root
SOURCE = Path(__file__).parents[1] / "bugs.c"
OPTIONS = ("-g", "-fno-inline", "-fno-optimize-sibling-calls", "-fno-toplevel-reorder", "-pthread")
GDB = """python
frame, seen = gdb.newest_frame(), 0
while frame is not None and seen < 64:
    if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
        print("pc", hex(frame.pc()))
    frame, seen = frame.older(), seen + 1
end
"""


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same program twice; in the second build its functions are elsewhere."""
    need("root")
    directories = (tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("build"))
    return [compiled(SOURCE, directories[0], *OPTIONS), compiled(SOURCE, directories[1], *OPTIONS, "-DMOVED")]


@pytest.fixture
def program(builds: list[Path]) -> Path:
    return builds[0]


def cores(directory: Path, commands: Sequence[Sequence[str | Path]], *, dumped: int | None = None) -> list[Path]:
    """Run programs that crash, and return their cores; *dumped* is their ``coredump_filter``."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, -1))
        if dumped is not None:
            Path("/proc/self/coredump_filter").write_text(f"{dumped:#x}", encoding="utf-8")

    pids = []
    with core_pattern(f"{directory}/core.%p"):
        for command in commands:
            arguments = list(map(os.fspath, command))
            child = subprocess.Popen(arguments, preexec_fn=prepare, stderr=subprocess.DEVNULL)
            assert child.wait() < 0
            pids.append(child.pid)
    return [directory / f"core.{pid}" for pid in pids]


def received(body: Incoming) -> bytes:
    return body.head + b"".join(iter(lambda: os.read(body.fd, 1 << 20), b""))


def collected_of(path: Path) -> Collected:
    return collect(Core(keep=KeepCore.NONE), context(manual(core=core_ref(str(path)))))


def facts_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = collected_of(path).document("core.json")
    return document


WAYS = [
    ["null"], ["strlen"], ["division"], ["abort"], ["raise"], ["nowhere"], ["data"], ["overflow"], ["null", "thread"],
    ["null", "handled"], ["null", "informed"], ["overflow", "alternate", "handled"], ["strlen", "thread", "handled"],
    ["once", "handled"],
]  # fmt: skip


def test_frames_are_those_that_gdb_finds(program: Path, tmp_path: Path) -> None:
    """Without frame pointers: through the library's abort(), a handler's frame, another stack, a call to nowhere."""
    need("gdb")
    script = tmp_path / "frames"
    script.write_text(GDB, encoding="utf-8")
    for way, core in zip(WAYS, cores(tmp_path, [[program, *way] for way in WAYS]), strict=True):
        collected = collected_of(core)
        starts = {Path(row["path"]).name: int(row["start"], 16) for row in collected.rows("modules.jsonl")}
        ours = []
        for frame in collected.document("core.json")["frames"]:
            name, plus, offset = frame.rpartition("+")
            ours.append(starts[name] + int(offset, 16) if plus else int(frame, 16))
        done = subprocess.run(
            ["gdb", "-batch", "-nx", "-x", script, program, core], capture_output=True, check=True, text=True
        )
        said = [int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith("pc ")]
        # gdb stops at main(), below which there are the C library and _start.
        assert (way, list(map(hex, ours[: len(said)]))) == (way, list(map(hex, said)))
        assert len(said) >= 4
        assert collected.document("core.json").get("frames_end", "") in {"", "the limit"}


def test_signature_is_the_same_in_each_run_and_differs_between_builds(builds: list[Path], tmp_path: Path) -> None:
    """With randomised addresses; the coarse key links the builds, though the function has moved."""
    runs = 4
    found = list(map(facts_of, cores(tmp_path, [[build, "strlen"] for build in builds for _ in range(runs)])))
    assert len({facts["crashed_thread"]["registers"]["rip"] for facts in found}) > len(builds)
    for signature in ("signature", "signature_of"):
        first, second = {facts[signature] for facts in found[:runs]}, {facts[signature] for facts in found[runs:]}
        assert (len(first), len(second), len(first & second)) == (1, 1, 0)
    assert found[0]["signature"].startswith("sig1:")
    assert len({facts["crash_key"] for facts in found}) == 1
    assert len({facts["build_id"] for facts in found}) == 2
    assert found[0]["frames"][1] != found[runs]["frames"][1]  # it has moved


def test_signature_tells_bugs_apart(program: Path, tmp_path: Path) -> None:
    """Also two that are alike but for their place, and the same place reached in another way."""
    ways = [["null"], ["other"], ["strlen"], ["division"], ["abort"], ["raise"], ["nowhere"], ["null", "informed"]]
    found = list(map(facts_of, cores(tmp_path, [[program, *way] for way in ways])))
    assert len({facts["signature"] for facts in found}) == len(ways)
    assert len({facts["crash_key"] for facts in found}) == len(ways) - 1  # the last one's is the first one's
    assert [facts["signature_of"].split("|")[0] for facts in found] == [
        "SIGSEGV/MAPERR", "SIGSEGV/MAPERR", "SIGSEGV/MAPERR", "SIGFPE/INTDIV", "SIGABRT/SENT", "SIGSEGV/SENT",
        "SIGSEGV/MAPERR", "SIGSEGV/SENT",
    ]  # fmt: skip


def test_signature_of_an_abort_begins_with_who_called_it(program: Path, tmp_path: Path) -> None:
    """Not with the library's abort(), nor with a handler that raises again."""
    ways = (["abort"], ["once", "handled"], ["once"])
    abort, handled, once = map(facts_of, cores(tmp_path, [[program, *way] for way in ways]))
    assert abort["frames"][0].startswith("libc.so.6+")
    assert abort["signature_of"].split("|")[1].startswith(abort["build_id"])
    assert handled["crash_key"].split("|")[2].split("<")[0] == once["crash_key"].split("|")[2].split("<")[0]
    assert handled["signature_of"].split("|")[1:] == once["signature_of"].split("|")[1:]


def test_signature_of_a_recursion_does_not_depend_on_where_the_stack_ends(program: Path, tmp_path: Path) -> None:
    """Its start is randomised, so the instruction that reaches the guard page is not always the same."""
    sizes = [8 << 20, (8 << 20) - 64 * 1024 - 4096]
    commands = [["prlimit", f"--stack={size}", program, "overflow"] for size in sizes for _ in range(3)]
    found = list(map(facts_of, cores(tmp_path, commands)))
    assert len({facts["signature"] for facts in found}) == 1
    assert found[0]["signature_of"].startswith("SIGSEGV/MAPERR|recursion|")


def test_held_process_has_the_same_facts_as_its_core(program: Path, tmp_path: Path) -> None:
    """Read from its memory, whatever is taken of the core."""
    path = tmp_path / "core"
    facts: dict[str, Any] = {}
    rows: list[Any] = []
    with held([program, "abort", "thread"]) as process:
        ctx = dataclasses.replace(context(), held=process)
        collected = Collected()
        for artifact in Core(content=CoreContent.FULL).collect(ctx):
            if isinstance(artifact.body, Incoming):
                path.write_bytes(received(artifact.body))
            else:
                collected.artifacts[str(artifact.path)] = take(artifact)
        facts, rows = collected.document("core.json"), collected.rows("modules.jsonl")
    written = collected_of(path)
    assert facts["package"] == {"type": "deb", "name": "bugs"}
    for key in (
        "program",
        "started_as",
        "build_id",
        "package",
        "modules",
        "frames",
        "signature",
        "signature_of",
        "crash_key",
    ):
        assert facts[key] == written.document("core.json")[key], key
    assert rows == written.rows("modules.jsonl")
    assert all(row["build_id"] for row in rows)


@pytest.mark.parametrize(
    ("way", "pack"), [("strlen", zstd.compress), ("strlen", lzma.compress), ("overflow", zstd.compress)]
)
def test_compressed_core_has_the_same_facts(program: Path, tmp_path: Path, way: str, pack: Any) -> None:
    """Of a stack that has run into its guard, too."""
    (core,) = cores(tmp_path, [[program, way, "thread"]])
    packed = tmp_path / "packed"
    packed.write_bytes(pack(core.read_bytes()))
    plain, compressed = collected_of(core), collected_of(packed)
    for name in ("threads.jsonl", "modules.jsonl"):
        assert compressed[name] == plain[name]
    for key in ("started_as", "signature_of", "crash_key"):
        assert compressed.document("core.json")[key] == plain.document("core.json")[key]


def test_core_without_first_pages_says_that_build_ids_are_unknown(program: Path, tmp_path: Path) -> None:
    """Bit 4 of coredump_filter is off: no table can be trusted either."""
    (core,) = cores(tmp_path, [[program, "null"]], dumped=0x3)
    facts = facts_of(core)
    assert "build_id" not in facts
    assert facts["program"] == str(program)
    assert facts["signature_of"].startswith("SIGSEGV/MAPERR|bugs+0x")
    assert "signature_reason" in facts


@pytest.mark.parametrize("how", ["deleted", "replaced", "fifo", "symlink"])
def test_program_that_is_not_what_ran_is_not_read(builds: list[Path], tmp_path: Path, how: str) -> None:
    """The core has its build-id; what is at its path by now tells nothing of it."""
    program = tmp_path / "bugs"
    shutil.copy(builds[0], program)
    (core,) = cores(tmp_path, [[program, "null"]])
    whole = facts_of(core)
    program.unlink()
    match how:
        case "replaced":
            shutil.copy(builds[1], program)
        case "fifo":
            os.mkfifo(program)
        case "symlink":
            program.symlink_to(builds[0])
    facts = facts_of(core)
    assert (facts["build_id"], facts["frames"][0]) == (whole["build_id"], whole["frames"][0])
    assert facts["frames"] == whole["frames"][: len(facts["frames"])]
    assert "no unwind table" in facts["signature_reason"]
    assert facts["crash_key"] == f"bugs|SIGSEGV|{facts['frames'][0]}"


def test_held_process_whose_program_was_replaced_is_read_all_the_same(builds: list[Path], tmp_path: Path) -> None:
    """Its mappings lead to the file that is mapped, deleted or not."""
    program = tmp_path / "bugs"
    shutil.copy(builds[0], program)
    collected = Collected()
    with held([program, "null"]) as process:
        program.unlink()
        shutil.copy(builds[1], program)
        for artifact in Core(content=CoreContent.NOTES).collect(dataclasses.replace(context(), held=process)):
            collected.artifacts[str(artifact.path)] = take(artifact)
    facts = collected.document("core.json")
    assert (len(facts["frames"]) > 4, facts["program"]) == (True, str(program))
    assert "frames_end" not in facts
