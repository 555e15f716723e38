"""The screen of a story: golden for one that has everything, and within 80 columns and 24 lines for any text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from collector.model.text import printable
from collector.report.screen import screen
from collector.report.story import (
    Cause,
    Kept,
    KeptSegment,
    LogLine,
    MemoryThen,
    Missing,
    Repeats,
    Story,
    Subject,
)
from collector.report.text import columns, local, one_line
from collector.report.traces import LIBDW, Backtraces, ThreadTrace, TraceFrame

AT = datetime(2026, 11, 28, 0, 19, 33, tzinfo=UTC)
HOSTILE = ("\x1b[2J", "\u202eevil", "a\nb", "x" * 4000, "\u4f60" * 200, "", "\x9b31m", "e\u0301" * 99)


def story(text: str = "engine", *, ended: bool = True) -> Story:
    """Return a story with *text*, as `tell` escapes it, in every field."""
    shown, line = printable(text), one_line(text)
    frames = (
        TraceFrame(module=shown, offset="0x4", function=shown),
        *[TraceFrame(module=shown, offset="0x9", function="match_book")] * 4,
        TraceFrame(module=shown, offset="0xf", function="main"),
        TraceFrame(module="libc.so.6", offset="0xff", function="__libc_start_call_main"),
    )
    return Story(
        id="20261128T001933.000000Z-abcdef",
        state="incomplete" if ended else "running",
        path="/var/lib/collector/20261128T001933.000000Z-abcdef",
        pipeline=shown,
        at=AT,
        ended=AT if ended else None,
        host=shown,
        kernel=shown,
        subject=Subject(comm=line, pid=4_000_077, unit=shown),
        cause=Cause(said=f"SIGSEGV at 0x0 ({line[:100]})", signal="SIGSEGV", diagnosis=f"access at 0x0: {line}"),
        kept=Kept(
            files=61,
            size_bytes=1 << 30,
            core="core/core",
            core_bytes=16 << 20,
            segments=(KeptSegment(name=shown, size_bytes=1 << 30, artifact="segments/segments/0001"),),
        ),
        trace=Backtraces(by=LIBDW, threads=(ThreadTrace(tid=1, frames=frames),)),
        threads=3,
        signature=shown,
        said=(LogLine(at=AT, text="before"), LogLine(at=AT, text=f"ERROR {line}", who=line, matters=True)),
        kernel_lines=(LogLine(at=AT, text=f"{line}[4000077]: segfault at 0", matters=True),),
        limits=(line,),
        memory=MemoryThen(
            available_bytes=21 << 30, stalled_percent=0.0, shm_bytes=1 << 30, before_s=600.0, before_bytes=34 << 30
        ),
        missing=(
            Missing(step=shown, status="failed", reason=line),
            Missing(step="core", status="not_applicable", reason=line),
            Missing(step="late", status="not yet run", reason=""),
        ),
        repeats=Repeats(
            by="signature", key="s", count=3, number=3, first=AT - timedelta(minutes=10), last=AT, recorded=4
        ),
        next=("collector debug abcdef", "collector report abcdef", "collector list --group"),
        writing_bytes=0 if ended else 1 << 20,
    )


def test_screen_has_everything_in_order() -> None:
    """What matters first; recursion folded; what calls main left out; the line that matters, not the last."""
    assert [str(line) for line in screen(story())] == [
        "engine[4000077]  SIGSEGV at 0x0 (engine)",
        f"when     {local(AT)} · unit engine",
        "where    engine (engine) < match_book \u00d74 < main · 3 threads",
        "why      access at 0x0: engine",
        "said     ERROR engine",
        "kernel   engine[4000077]: segfault at 0",
        "memory   21 GiB available, stall 0 %; 10 min before: 34 GiB; /dev/shm 1 GiB,",
        "         engine 1 GiB",
        "kept     core 16 MiB, 1 of 1 segments (1 GiB), 61 files (1 GiB)",
        "MISSING  engine: engine",
        "without  core: engine",
        "to come  late",
        "again    3rd in 10 min, 4 more recorded only · signature engine",
        "incident 20261128T001933.000000Z-abcdef incomplete",
        "next     collector debug abcdef · collector report abcdef ·",
        "         collector list --group",
    ]


def test_screen_names_no_process_after_the_machine() -> None:
    """A run by hand knows a PID and no name: the host's name before it would be a lie."""
    by_hand = msgspec.structs.replace(story(), subject=Subject(pid=4_000_077), host="box")
    machine = msgspec.structs.replace(by_hand, subject=Subject())
    assert [str(screen(one)[0]).partition("  ")[0] for one in (by_hand, machine)] == ["process[4000077]", "box"]


def test_screen_has_room_for_the_signature_beside_the_repeats() -> None:
    known = Repeats(by="signature", key="s", count=150, number=112, first=AT - timedelta(hours=9), last=AT, recorded=40)
    shown = map(str, screen(msgspec.structs.replace(story(), repeats=known, signature="sig1:" + "3f9c41d2" * 4)))
    assert "again    112th of 150 in 9 h, 40 more recorded only · signature sig1:3f9c41…" in shown


def test_screen_of_an_incident_under_way_has_bytes_and_rate() -> None:
    text = " ".join(" ".join(map(str, screen(story(ended=False), now=AT + timedelta(seconds=2)))).split())
    assert "61 files (1 GiB), 1 MiB being written, 512 MiB/s for 2 s" in text


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=400)), st.integers(0, 130))
def test_screen_is_never_wider_than_the_terminal(text: str, width: int) -> None:
    """Nor longer than a terminal of 24 lines, nor able to move the cursor, whatever the names are."""
    lines = screen(story(text), width=width, now=AT)
    assert all(columns(str(line)) <= max(width, 40) for line in lines)
    assert len(lines) < 24 or width < 80
    assert all(str(line).isprintable() for line in lines)


def test_screen_calls_all_shared_memory_so_where_nothing_recorded_dev_shm() -> None:
    """``Shmem`` of ``/proc/meminfo`` is also what other tmpfs and shared mappings hold."""
    told = replace(story(), memory=MemoryThen(available_bytes=1 << 30, shared_bytes=1 << 20))
    assert "memory   1 GiB available; shared memory 1 MiB, engine 1 GiB" in map(str, screen(told))


def lacking(**reasons: str) -> tuple[Missing, ...]:
    status = {"without": "not_applicable"}
    return tuple(
        Missing(step=step, status=status.get(step.partition("_")[0], "failed"), reason=reason)
        for step, reason in reasons.items()
    )


def test_screen_says_a_reason_once_for_all_steps_that_have_it() -> None:
    lines = list(map(str, screen(replace(story(), missing=lacking(cgroup="no", core="cut", network="no")))))
    assert "MISSING  cgroup, network: no; core: cut" in lines


def test_screen_names_all_that_does_not_apply_if_the_reasons_do_not_fit() -> None:
    told = replace(story(), missing=lacking(without_a="short", without_b="short"))
    assert "without  without_a, without_b: short" in map(str, screen(told))
    told = replace(story(), missing=lacking(without_a="long " * 20, without_b="no"))
    assert "without  without_a, without_b (why: --steps)" in map(str, screen(told))


def test_screen_cuts_neither_cause_nor_state_on_a_narrow_terminal() -> None:
    lines = list(map(str, screen(story("null pointer"), width=40)))
    assert lines[:2] == ["null pointer[4000077]  SIGSEGV at 0x0", "(null pointer)"]
    assert "incident 20261128T001933.000000Z-abcdef" in lines
    assert "         incomplete" in lines


def test_screen_has_two_lines_of_what_the_kernel_says() -> None:
    """How much memory a process had that was killed for it is at the end of the first 100 characters."""
    line = (
        "Memory cgroup out of memory: Killed process 4711 (engine) total-vm:70000kB, anon-rss:31740kB, " + "more " * 40
    )
    lines = list(map(str, screen(replace(story(), kernel_lines=(LogLine(at=AT, text=line, matters=True),)))))
    assert any("anon-rss:31740kB" in text for text in lines)


def test_screen_leaves_a_line_to_type_in_whatever_an_incident_has() -> None:
    """Every part as long as it may be: a second line of the kernel's is the first to go."""
    commands = tuple(
        f"collector {verb} abcdef" for verb in ("debug", "show --stacks", "report", "export", "list --group")
    )
    long = replace(
        story("word " * 100),
        missing=lacking(core="why " * 200, without_a="no " * 90, without_b="not"),
        kept=replace(story().kept, core_content="stacks " * 5),
        next=commands,
        cause=Cause(said="cause " * 30, diagnosis="why " * 300),
    )
    assert len(screen(long)) == 23


def test_screen_says_once_that_the_kernel_killed_it_for_memory() -> None:
    """Once in the head; what is left is which limit it was."""
    killed = Cause(
        said="killed for memory by the kernel",
        diagnosis="killed by the kernel for memory: its memory cgroup, or one above it, reached its limit",
    )
    lines = list(map(str, screen(replace(story(), cause=killed))))
    assert "why      its memory cgroup, or one above it, reached its limit" in lines
