"""Where fuzzing begins: for each parser, some well-formed inputs. What was found is in `corpus`."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Iterator
from pathlib import Path

import fake_core
import fake_report
import msgspec
from msgspec.structs import replace

from collector.daemon.messages import ReloadRequest, Reply, RunRequest, StatusRequest
from collector.host.compression import zstd
from collector.model.artifact import ArtifactRecord
from collector.model.incident import IncidentState, Manifest, StepRecord, StepStatus
from collector.model.marker import IDENTITY, CoreRef, Marker, MarkerKind, ProcessRef

TESTS = Path(__file__).parents[1]
CORPUS = Path(__file__).parent / "corpus"
SHIPPED = TESTS.parent / "config" / "collector.yaml"
REPORT = fake_report.report(fake_report.values_of(42), fake_report.packed(fake_core.core(fake_core.crash())))
MARKER = Marker(
    kind=MarkerKind.CORE_FILE,
    trigger="cores",
    at_s=1.5,
    reason="a core",
    process=ProcessRef(pid=42, start_time_ticks=900),
    comm="engine",
    uid=1000,
    core=CoreRef(path="/var/crash/core", device=1, inode=2, size_bytes=3, mtime_ns=4, uid=1000),
    attributes={"writer": "kernel"},
)


def seeds(name: str) -> list[bytes]:
    """Return the well-formed inputs of a parser, then what was found to break it once."""
    found = sorted((CORPUS / name).glob("*"))
    return [*MAKERS[name](), *(path.read_bytes() for path in found)]


def _cores() -> Iterator[bytes]:
    whole = fake_core.core(fake_core.crash())
    yield whole
    yield fake_core.core(fake_core.crash(word=4, registers=17), word=4, loads=3)
    yield fake_core.core(fake_core.crash(order=">"), order=">")
    for pack in (zstd.compress, lzma.compress, gzip.compress, bz2.compress):
        yield pack(whole)
    for path in sorted((TESTS / "unit" / "collectors" / "cores").glob("*.core")):
        yield path.read_bytes()


def _unwind_tables() -> Iterator[bytes]:
    """Yield a header with one pair, its common information, and the entry of a function at the header's address."""
    common = struct.pack("<IIB4sBBBBB", 20, 0, 1, b"zRS\0", 1, 0x78, 16, 1, 0x1B) + bytes((0x0C, 7, 8, 0x90, 1, 0))
    for program in (b"\x41\x0e\x10\x86\x02\x43\x0d\x06", b"\x0f\x04\x77\xa0\x01\x06\x16\x07\x02\x77\x08", b"\x0a\x0b"):
        at = 20 + len(common)
        entry = struct.pack("<IIiIB", 13 + len(program), at + 4 - 20, -(at + 8), 64, 0) + program
        yield struct.pack("<4siIii", bytes((1, 0x1B, 3, 0x3B)), 16, 1, 0, at) + common + entry + bytes(64)


def _notes() -> Iterator[bytes]:
    values = tuple(range(27))
    for desc in (
        fake_core.prstatus(42, 11, values),
        fake_core.prpsinfo(42, b"engine", b"engine --token abc"),
        fake_core.siginfo(11, 1, 0xDEAD),
        fake_core.nt_file([(0x1000, 0x3000, 2, b"/dev/shm/engine.1")]),
    ):
        yield b"\0" + desc


def _kernel_lines() -> Iterator[bytes]:
    lines = (TESTS / "unit" / "triggers" / "kernel_lines.tsv").read_text(encoding="utf-8").splitlines()
    for line in lines:
        yield b"6,339,5140900,-;" + line.rpartition("\t")[2].encode() + b"\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n"


def _names() -> Iterator[bytes]:
    yield b"core.engine.1000.0123456789abcdef0123456789abcdef.42.1700000000000000.zst"
    yield b"_usr_bin_engine.1000.crash"
    yield b"core.engine.42.10.2.3.17.1700000000"
    yield b"engine-42-11-1000-!opt!engine"
    yield b"coredump"


def _facts() -> Iterator[bytes]:
    yield b"PID=42\nUID=1000\nCOMM=engine\nSIGNAL=SIGSEGV\nREASON=it died\n# a comment\n"
    yield b"MONITOR_SERVICE_RESULT=core-dump\r\nMONITOR_EXIT_CODE=dumped\r\nMONITOR_EXIT_STATUS=ABRT\r\n"
    yield b'\xef\xbb\xbf{"pid": 42, "start_time": 900, "exe": "/opt/engine", "more": {"a": [1, null, "\\u2028"]}}'


def _manifests() -> Iterator[bytes]:
    header = {
        "version": 1, "id": "20261128T121500Z-engine-1", "pipeline": "crash", "markers": (MARKER,), "host": "h",
        "boot_id": "b", "kernel": "6.18", "collector_version": "0.1.0", "config_hash": "c", "started_s": 1.0,
    }  # fmt: skip
    artifact = ArtifactRecord(path="memory/meminfo", size_bytes=3, data_bytes=3, source="/proc/meminfo")
    step = StepRecord(id="memory", collector="proc_files", status=StepStatus.OK, artifacts=(artifact,))
    yield msgspec.json.encode(Manifest(**header, state=IncidentState.COMPLETE, ended_s=2.0, steps=(step,)))
    yield msgspec.json.encode(step) + b"\n" + msgspec.json.encode(artifact) + b"\n"


def _rows() -> Iterator[bytes]:
    encoded = msgspec.json.encode(MARKER)
    yield b"\n".join((encoded, b"collected", b"crash", b"1", b"20261128T121500.000000Z-000001"))
    yield b"\n".join((msgspec.json.encode(replace(MARKER, core=None, attributes={IDENTITY: "log:7:9"})), b"held"))


def _messages() -> Iterator[bytes]:
    run = RunRequest(pipeline="crash", reason="r", processes=(ProcessRef(pid=42),), only=("core",))
    for message in (run, StatusRequest(), ReloadRequest(), Reply(exit_code=75, message="m", hint="h")):
        yield msgspec.json.encode(message)


def _configurations() -> Iterator[bytes]:
    yield SHIPPED.read_bytes()
    for path in sorted((TESTS / "broken_configs").glob("*.yaml")):
        yield path.read_bytes()


def _proc() -> Iterator[bytes]:
    for name in ("stat", "status", "maps", "cgroup", "limits", "auxv"):
        yield Path(f"/proc/self/{name}").read_bytes()[:8192]
    yield b"0::/system.slice/engine.service\n12:memory,cpu:/x\n"


def _secrets() -> Iterator[bytes]:
    yield b"PATH=/bin\0MYSQL_PWD=hunter2\0DATABASE_URL=postgres://a:b@host/db?token=x\0JAVA_OPTS=-Dx.password=y\0"
    yield b'mysql\0-u\0root\0-phunter2\0--password=a b\0curl -u me:x -H "Authorization: Bearer abc" https://t@host\0'


MAKERS = {
    "core": _cores,
    "note": _notes,
    "unwind": _unwind_tables,
    "kmsg": _kernel_lines,
    "name": _names,
    "facts": _facts,
    "manifest": _manifests,
    "row": _rows,
    "control": _messages,
    "yaml": _configurations,
    "report": lambda: [REPORT, REPORT[:600]],
    "proc": _proc,
    "redaction": _secrets,
    "subuid": lambda: [b"alice:100000:65536\n1000:165536:65536\nroot:1000000:1073741824\n"],
}
