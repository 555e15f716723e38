"""
One function for each parser of foreign bytes.

Each lets only what must not happen escape: an undocumented exception, an output out of proportion to the input, or one
that cannot be stored and read back.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from collector.archive import layout
from collector.archive.ledger_entry import identity, readable, short_identity
from collector.archive.read import ArchiveReader, read_manifest
from collector.archive.store import header_of, journal
from collector.archive.summary import IncidentSummary
from collector.collectors.core.code_reader import opener
from collector.collectors.core.dwarf_reader import DwarfError
from collector.collectors.core.module import ModuleRow
from collector.collectors.core.notes import parse_process, parse_signal, parse_thread
from collector.collectors.core.picked_memory import read_image
from collector.collectors.core.summary import CoreSummary, fill
from collector.collectors.core.traced import add_trace
from collector.collectors.core.unwind_rules import caller_of, rules_at
from collector.collectors.core.unwind_table import find_function
from collector.daemon.messages import Answer, Request
from collector.host.apport import MAX_KEYS, read_report
from collector.host.core_memory import PickedMemory
from collector.host.corefile import core_reader, mapped_files
from collector.host.corehead import HEAD_BYTES, fingerprint, whole_bytes
from collector.host.corepattern import CorePattern
from collector.host.elfcore import MAX_KEPT_BYTES, CoreError, Layout, notes
from collector.host.files import Host
from collector.host.kernelfile import numbers
from collector.host.kmsg import KmsgRecord, parse_record
from collector.host.mapped_files import MappedFileTable
from collector.host.maps import parse_maps
from collector.host.process_identity import CORE_LIMIT, INNER_PID, REAL_UID, TGID, image_of, unit_of
from collector.host.process_stat import parse_stat
from collector.host.subordinates import SUBUID, owners
from collector.model.artifact import ArtifactRecord, Truncated
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError, ConfigError
from collector.model.incident import IncidentHeader, Manifest, StepRecord
from collector.model.marker import MARKER_BYTES, Marker, MarkerKind, shortened
from collector.model.redaction import Redaction
from collector.pipeline.compile import prepare
from collector.triggers.core_names import identify
from collector.triggers.facts import Speaker, marker_of, parse
from collector.triggers.kernel_catalogue import EVENTS
from collector.triggers.kernel_lines import LinePatterns
from collector.triggers.kernel_reports import MAX_REPORTS, OpenReports
from collector.triggers.registry import TRIGGERS

ROOT = tempfile.TemporaryDirectory(prefix="collector-fuzz-")
HOST = Host(ROOT.name)
FD = os.memfd_create("fuzz")
(Path(ROOT.name) / "etc").mkdir()
SUBUID_FILE = os.open(HOST.path(SUBUID), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

LAYOUTS = [
    Layout(word=word, order=order, machine=machine)
    for word in (8, 4)
    for order in "<>"
    for machine in ("x86_64", "aarch64", "arm", "mips", "m68k", "sparc", "x")
]
LINES = LinePatterns(tuple(EVENTS), (r"engine (?P<comm>\S+) \[(?P<pid>\d+)\] died", r"pid=(?P<pid>\d+).*"))
PATTERNS = [
    CorePattern(text, uses_pid=uses_pid, host_name="10.2.3.17")
    for uses_pid in (False, True)
    for text in ("core", "core.%e.%p.%h.%t", "/var/crash/%e-%p-%s-%u-%E", "core.%h.%e.%E.%p.%P.%i.%I", "%%p%e%e%p%")
]
REDACTION = Redaction()
UNWIND_AT = 0x10000
SEALED = Path(ROOT.name, "archive", "20261128T121500.000000Z-000001")
UNDER_WAY = SEALED.with_name("20261128T121500.000000Z-000002" + layout.PARTIAL)
for directory in (SEALED.parent, SEALED, UNDER_WAY):
    directory.mkdir(mode=0o700)
INCIDENT_FILES = [
    os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for path in (SEALED / layout.MANIFEST, UNDER_WAY / layout.HEADER, UNDER_WAY / layout.STEPS)
]


def stored(value: Any, kind: Any) -> bytes:
    """Return *value* as JSON, which must read back as the same."""
    data = msgspec.json.encode(value)
    assert decode(data, kind) == value
    return data


def file_of(data: bytes, fd: int = FD) -> int:
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))  # to nothing first, and ext4 would write the rest to the disk each time
    return fd


def core(data: bytes) -> None:
    fd = file_of(data)
    with contextlib.suppress(CoreError):
        reader = core_reader(fd)
        header, found = notes(reader)
        kept = 0
        for note in found:
            kept += len(note.desc)
            of_a_note(header.layout, note.desc)
        assert kept <= MAX_KEPT_BYTES
        reader.is_cut_off(header.end_bytes)
    with contextlib.suppress(CoreError):
        reader = core_reader(fd)
        summary = CoreSummary(path="", size_bytes=len(data))
        fill(summary, reader, REDACTION)
        traced = add_trace(summary, read_image(fd, reader), opener(HOST))
        stored(summary, CoreSummary)
        for row_of_module in traced.rows():
            stored(row_of_module, ModuleRow)
    with contextlib.suppress(CoreError, Truncated):
        assert sum(len(mapped.path) for mapped in mapped_files(fd)) <= MAX_KEPT_BYTES
    fingerprint(data)
    assert whole_bytes(data[:HEAD_BYTES]) >= 0


def of_a_note(layout: Layout, desc: bytes) -> None:
    for parsed in (parse_thread(layout, desc), parse_process(layout, desc), parse_signal(layout, desc)):
        assert len(msgspec.json.encode(parsed)) <= 16 * len(desc) + 4096
    assert sum(len(mapped.path) for mapped in MappedFileTable(layout, desc)) <= len(desc)


def note(data: bytes) -> None:
    if data:
        of_a_note(LAYOUTS[data[0] % len(LAYOUTS)], data[1:])


def unwind(data: bytes) -> None:
    """Read an unwind table at an address and a stack behind it, both made of *data*, and leave its function."""
    memory = PickedMemory({UNWIND_AT: data})
    word_at: Callable[[int], int] = lambda address: int.from_bytes(memory.read(address, 8), "little")  # noqa: E731
    for one in LAYOUTS:
        with contextlib.suppress(DwarfError):
            found = find_function(one, memory.read, UNWIND_AT, UNWIND_AT + 8)
            if found is not None:
                rules = rules_at(one, found, UNWIND_AT + 8)
                _, registers = caller_of(one, rules, dict.fromkeys(range(32), UNWIND_AT), word_at)
                assert all(0 <= value < 1 << 64 for value in registers.values())


def kmsg(data: bytes) -> None:
    try:
        record = parse_record(data)
    except ValueError:
        return
    assert len(stored(record, KmsgRecord)) <= 16 * len(data) + 256
    found = LINES.find(record.message)
    assert found is None or found.pid is None or found.pid >= 0
    msgspec.json.encode(found)
    reports = OpenReports()
    told = [*reports.take(record, found), *reports.give_up()]
    # What follows may end the report, and never tells it twice.
    assert len(told) == (found is not None)
    assert all(one.event.pid is None or one.event.pid >= 0 for one in told)
    context = f"CPU: 3 PID: 41 Comm: {record.message} Not tainted 6.1.0 #1"
    named = [*reports.take(record, found), *reports.take(replace(record, message=context), None), *reports.give_up()]
    assert len(named) == len(told) <= MAX_REPORTS


def name(data: bytes) -> None:
    text = os.fsdecode(data[:255].replace(b"\0", b"").replace(b"/", b"!"))
    # One pattern each: compiling it for the numbers in a name takes most of the time.
    writer, said = identify(f"/var/crash/{text}", -1, -1, PATTERNS[sum(data) % len(PATTERNS)])
    assert writer in {"systemd", "apport", "abrt", "kernel", "unknown"}
    for number in (said.pid, said.inner_pid, said.thread, said.uid, said.signal, said.at_s):
        assert number is None or number >= 0


def facts(data: bytes) -> None:
    said = parse(data)
    for uid in (0, 65534):
        speaker = Speaker(kind=MarkerKind.NOTIFICATION, trigger="fuzz", uid=uid, what="a notification")
        marker = marker_of(said, speaker, HOST)
        assert uid == 0 or marker.uid == uid
        kept = shortened(marker)
        assert len(stored(kept, Marker)) <= MARKER_BYTES
        assert (kept.process, kept.uid, kept.signal) == (marker.process, marker.uid, marker.signal)


def manifest(data: bytes) -> None:
    """Read it as each file of an incident that somebody else wrote: nothing but an `ArchiveError` comes out."""
    for file in INCIDENT_FILES:
        file_of(data, file)
    with ArchiveReader(str(SEALED.parent)) as archive:
        found = list(archive.summaries())
        assert len(found) == 2, "a bad incident costs the list only itself"
        for summary in found:
            stored(summary, IncidentSummary | str)
        with contextlib.suppress(ArchiveError), archive.incident(SEALED.name) as fd:
            known = read_manifest(fd, SEALED.name)
            stored(known, Manifest)
            for artifact in known.artifacts():
                assert Path(os.path.normpath(SEALED / artifact.path)).is_relative_to(SEALED)
    fd = os.open(UNDER_WAY, os.O_RDONLY)
    try:
        with contextlib.suppress(ArchiveError):
            stored(header_of(fd, SEALED.name), IncidentHeader)
        for kind in (StepRecord, ArtifactRecord):
            records = list(journal(fd, layout.STEPS, kind))
            assert len(records) <= data.count(b"\n") + 1
            for record in records:
                stored(record, kind)
    finally:
        os.close(fd)


def row(data: bytes) -> None:
    """Read a row of the ledger whose columns hold anything that SQLite can store."""
    text = [column.decode(errors="replace") for column in [*data.split(b"\n"), b"", b"", b"", b""][:5]]
    for columns in (text, [_number(column) for column in text]):
        entries, damaged = readable([(9, *columns)], shift=1)
        assert len(entries) + len(damaged) == 1
        for entry in entries:
            stored(entry.marker, Marker)
            key = identity(entry.marker)
            assert key is None or 0 <= short_identity(key) < 1 << 63


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def control(data: bytes) -> None:
    for kind in (Request, Answer):
        with contextlib.suppress(MalformedError):
            stored(decode(data, kind), kind)


def yaml(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        prepare(f"/proc/self/fd/{file_of(data)}", TRIGGERS)


def report(data: bytes) -> None:
    fd = file_of(data)
    found = read_report(fd)
    if found is not None:
        assert len(found.spans) <= MAX_KEYS
        assert sum(map(len, found.arguments)) <= len(data)
        assert found.pid is None or found.pid >= 0
    identify("/var/crash/_a.0.crash", fd, -1, PATTERNS[0])
    core(data)


def proc(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(parse_stat(data).comm) <= len(data)
    with contextlib.suppress(ValueError):
        unit_of(data)
    assert sum(len(mapped.path) for mapped in parse_maps(data.split(b"\n"))) <= len(data)
    numbers(data)
    numbers(data, separator=b":")
    image_of(data)
    for pattern in (TGID, REAL_UID, INNER_PID, CORE_LIMIT):
        pattern.search(data)


def redaction(data: bytes) -> None:
    half = len(data) // 2
    for hide in (REDACTION.environ, REDACTION.command_line):
        whole = b"".join(hide([data]))
        assert b"".join(hide([data[:half], data[half:]])) == whole
        assert len(whole) <= 16 * len(data) + 64
    assert len(list(REDACTION.arguments(data.split(b" ")))) == data.count(b" ") + 1


def subuid(data: bytes) -> None:
    file_of(data, SUBUID_FILE)
    users = owners(HOST)
    assert len(users.subordinate) <= data.count(b"\n") + 1
    for uid in (0, 1000, 100_000, 0x80000, (1 << 32) - 1):
        assert users.of(uid)


PARSERS: dict[str, Callable[[bytes], None]] = {
    parser.__name__: parser
    for parser in (core, note, unwind, kmsg, name, facts, manifest, row, control, yaml, report, proc, redaction, subuid)
}
