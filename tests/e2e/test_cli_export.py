"""``collector export``: what somebody gets who has the file and the usual tools, and what may go wrong on the way."""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import pty
import select
import signal
import struct
import subprocess
import tarfile
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configuration import MEMORY, config_of, write_config
from copying_fixtures import run
from harness import COLLECTOR, wait_for
from machine import need

from collector.host.compression import zstd

COMPOSED = ("README", "report.html", "NAMES.tsv", "DIGESTS")
FILES = "{id: logs, collector: files, with: {paths: [$directory/logs/**]}}"
SEGMENTS = "{id: segments, collector: shm, with: {from: none, segments: ['%s*']}}"
MIB = 1 << 20
PIPE_BYTES = 65_536
ALIEN = os.fsdecode(b"\xff\xfe")
HOSTILE = (
    "engine.main",
    "Engine.MAIN",
    "-rf",
    ".hidden",
    "a b",
    "x\n\x1b[31my",
    "n" * 250,
    ALIEN,
    "100%41",
    "t~2",
    "ü",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, config_of(MEMORY, FILES, triggers=()))


@pytest.fixture
def segments() -> Iterator[list[Path]]:
    """Segments with hostile names, one of them with 1 GiB of holes, and one below a directory."""
    top = Path(f"/dev/shm/export-{os.getpid()}")
    top.mkdir()
    paths = [top / name for name in HOSTILE]
    try:
        for number, path in enumerate(paths):
            path.write_bytes(b"%d" % number * 5000)
        os.truncate(paths[0], 1 << 30)
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        top.rmdir()


def collector(config: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*COLLECTOR, *arguments, "--config", str(config)]
    return subprocess.run(command, text=True, check=False, timeout=60, **({"capture_output": True} | options))


def collect(config: Path, *arguments: str) -> Path:
    """Make an incident; return its directory."""
    done = collector(config, "run", "--now", *arguments)
    assert done.stdout, done.stderr
    return Path(done.stdout.strip())


def unpacked(config: Path, directory: Path, *arguments: str) -> Path:
    """Export the newest incident through a pipe, and unpack it with GNU tar; return its directory."""
    need("zstd")
    directory.mkdir()
    command = [*COLLECTOR, "export", "latest", "-o", "-", "--config", str(config), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "--zstd", "-xf", "-", "-C", str(directory)], stdin=packing.stdout, check=True)
    assert packing.returncode == 0
    (found,) = directory.iterdir()
    return found


def names_in(incident: Path) -> dict[str, str]:
    """Return the name of each file in an export by its path in the manifest."""
    header, *rows = (incident / "NAMES.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["name", "path_in_manifest", "source"]
    return {path: name for name, path, _ in (row.split("\t") for row in rows)}


def test_export_holds_every_file_of_the_incident(config: Path, tmp_path: Path) -> None:
    """One file that tar and zstd can read; an existing one is never replaced."""
    made = json.loads(collector(config, "run", "--now", "--json", "--only", "memory").stdout)
    bundle = tmp_path / "incident.tar.zst"
    done = collector(config, "export", "latest", "-o", str(bundle))
    assert done.returncode == 0, done.stderr
    assert bundle.stat().st_mode & 0o777 == 0o600
    with zstd.open(bundle) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        found = {member.name: (tar.extractfile(member) or packed).read() for member in tar}
    incident = Path(made["path"])
    on_disk = {f"{incident.name}/{path.relative_to(incident)}": path for path in incident.rglob("*") if path.is_file()}
    assert {name for name in found if name not in on_disk} == {f"{incident.name}/{name}" for name in COMPOSED}
    assert all(path.read_bytes() == found[name] for name, path in on_disk.items())
    again = collector(config, "export", "latest", "-o", str(bundle))
    assert (again.returncode, "does not exist" in again.stderr) == (73, True)
    (incident / "memory/proc/loadavg").unlink()
    short = collector(config, "export", "latest", "-o", str(tmp_path / "short"))
    assert (short.returncode, "memory/proc/loadavg" in short.stderr, "note:" in short.stderr) == (3, True, True)


def test_export_refuses_tmpfs(config: Path) -> None:
    """Writing there would use the memory that is short; the file is not created."""
    collector(config, "run", "--now", "--only", "memory")
    bundle = Path(f"/dev/shm/collector-test-{os.getpid()}.tar.zst")
    done = collector(config, "export", "latest", "-o", str(bundle))
    assert done.returncode == 73
    assert "hint: name a file on a disk" in done.stderr
    assert not bundle.exists()


def test_export_to_a_full_disk_is_one_line(config: Path, tmp_path: Path) -> None:
    """Exit status 73, the file's name and the kernel's reason; no partial file is left."""
    collector(config, "run", "--now", "--only", "memory")
    bundle = tmp_path / "incident.tar.zst"
    command = " ".join([*COLLECTOR, "export", "latest", "-o", str(bundle), "--config", str(config)])
    # A file size limit (EFBIG) stands in for a full disk (ENOSPC).
    limited = ["sh", "-c", f"ulimit -f 8; trap '' XFSZ; exec {command}"]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 73
    assert f"cannot write {bundle}: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not bundle.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_export_leaves_nothing_when_a_signal_ends_it(config: Path, tmp_path: Path, number: int) -> None:
    """A partial export must not be mistaken for a complete one."""
    assert collector(config, "run", "--now", "--only", "memory").returncode == 0
    (incident,) = (tmp_path / "archive").glob("*Z-??????")
    with (incident / "memory" / "bulk").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    out = tmp_path / "out.tar.zst"
    running = subprocess.Popen(
        [*COLLECTOR, "export", "latest", "-o", str(out), "--config", str(config)], stderr=subprocess.DEVNULL
    )
    wait_for(out.exists, "export")
    running.send_signal(number)
    assert running.wait(60) == 128 + number
    assert not out.exists()


def test_export_restores_every_file_under_a_name_that_can_be_read(tmp_path: Path, segments: list[Path]) -> None:
    """Byte for byte and with its holes; no name leaves the directory, hides, or looks like an option."""
    top = segments[0].parent
    config = write_config(tmp_path, config_of(SEGMENTS % f"{top.name}/", triggers=()))
    incident = collect(config)
    out = unpacked(config, tmp_path / "out")
    names = names_in(out)
    for path, name in names.items():
        assert filecmp.cmp(incident / path, out / name, shallow=False), name
        assert (out / name).stat().st_mode & 0o777 == 0o600
    taken = {name for name in names.values() if name.startswith("segments/segments/")}
    assert len(taken) == len({name.casefold() for name in taken}) == len(HOSTILE)
    assert all(name.isascii() and name.isprintable() and " " not in name for name in taken)
    assert all(len(part) <= 200 and part[0] not in "-." for name in taken for part in name.split("/"))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert [name for name in taken if page.count(f"{name}<") < 2] == []  # among the segments, and among the files
    by_source = {row.split("\t")[2]: row.split("\t")[0] for row in (out / "NAMES.tsv").read_text().splitlines()}
    sparse = out / by_source[str(segments[0])]
    assert sparse.name.startswith("engine.main")
    assert (sparse.stat().st_size, sparse.stat().st_blocks * 512 < MIB) == (1 << 30, True)
    assert set(names_in(out).values()) | set(COMPOSED) == {
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()
    }


def test_export_begins_with_what_is_read_first(config: Path, tmp_path: Path) -> None:
    """Whoever lists it, or unpacks the beginning of it only, has the README at once, and bulk comes last."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "app.log").write_bytes(os.urandom(3 * MIB))
    (logs / "small").write_bytes(b"small")
    collect(config)
    out = unpacked(config, tmp_path / "out")
    archive = ("--archive", str(tmp_path / "archive"))
    listed = collector(config, "export", "latest", *archive, "-o", str(tmp_path / "x.tar.zst"))
    assert listed.returncode == 0, listed.stderr
    members = run("tar", "--zstd", "-tf", tmp_path / "x.tar.zst").split()
    assert [name.partition("/")[2] for name in members[:5]] == [*COMPOSED, "manifest.json"]
    assert members[-1].endswith("/logs/app.log")
    assert (out / members[-1].partition("/")[2]).read_bytes() == (logs / "app.log").read_bytes()


def test_export_readme_holds_what_to_do_and_every_command_of_it_works(config: Path, tmp_path: Path) -> None:
    """Its commands are run as they stand there, by a shell, with nothing of the collector."""
    need("jq", "xxh128sum")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "app.log").write_text("said\n")
    write_config(tmp_path, config_of(
        MEMORY, FILES, "{id: processes, collector: process_table}", "{id: kernel_log, collector: dmesg}",
        "{id: segments, collector: shm, with: {from: none}}", triggers=(),
    ))  # fmt: skip
    incident = collect(config)
    out = unpacked(config, tmp_path / "out")
    text = (out / "README").read_text(encoding="utf-8")
    assert incident.name in text
    assert "holds memory of processes" in text
    assert "logs/files/" in text
    answers = text.partition("Questions and answers")[2].partition("\n\n")[0].splitlines()
    commands = [line.strip() for line in answers if line.startswith("      ")]
    assert len(commands) >= 7
    for command in [*commands, "xxh128sum -c DIGESTS"]:
        done = subprocess.run(["sh", "-c", command], cwd=out, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
    # What a damaged file does.
    (out / "memory/proc/loadavg").write_text("0")
    assert subprocess.run(["xxh128sum", "-c", "DIGESTS"], cwd=out, capture_output=True, check=False).returncode == 1


def test_export_of_some_steps_leaves_out_the_others_and_says_so(config: Path, tmp_path: Path) -> None:
    """By id or by collector; an unknown one is refused with the one that was probably meant."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "app.log").write_text("said\n")
    collect(config)
    only = unpacked(config, tmp_path / "only", "--only", "proc_files")
    without = unpacked(config, tmp_path / "without", "--without", "memory")
    assert ((only / "memory").is_dir(), (only / "logs").exists()) == (True, False)
    assert ((without / "memory").exists(), (without / "logs").is_dir()) == (False, True)
    assert "logs: left out of this export" in (only / "README").read_text()
    assert not any(path.startswith("logs/") for path in names_in(only))
    for directory, told in ((only, True), (without, False)):  # nor do the README and the report tell what was in them
        for name in ("README", "report.html"):
            assert ("iB available" in (directory / name).read_text(encoding="utf-8")) is told, (directory, name)
    assert "memory</bdi></strong> left out of this export" in (without / "report.html").read_text(encoding="utf-8")
    assert "collector export" not in (only / "README").read_text(encoding="utf-8")
    refused = collector(config, "export", "latest", "-o", "-", "--only", "memroy")
    assert (refused.returncode, "did you mean memory?" in refused.stderr) == (64, True)
    nothing = collector(config, "export", "latest", "-o", "-", "--only", "logs", "--without", "files")
    assert (nothing.returncode, "no step is left" in nothing.stderr) == (64, True)


def test_export_of_a_damaged_incident_says_in_its_readme_what_is_not_there(config: Path, tmp_path: Path) -> None:
    """Who gets it sees neither the messages nor the exit status."""
    incident = collect(config, "--only", "memory")
    (incident / "memory/proc/loadavg").unlink()
    (incident / "memory/proc/vmstat").write_text("cut")
    done = collector(config, "export", "latest", "-o", str(tmp_path / "x.tar.zst"))
    assert done.returncode == 3
    text = run("tar", "--zstd", "-xOf", tmp_path / "x.tar.zst", f"{incident.name}/README")
    assert "memory/proc/loadavg: gone from the archive" in text
    assert "memory/proc/vmstat: 3 bytes instead of " in text


@pytest.mark.parametrize("verb", ["export", "report"])
def test_incident_that_is_not_sealed_is_refused_as_that(config: Path, tmp_path: Path, verb: str) -> None:
    """It is no empty archive."""
    incident = collect(config, "--only", "memory")
    incident.rename(f"{incident}.partial")
    for name in ("latest", incident.name):
        done = collector(config, verb, name, "-o", str(tmp_path / "x.tar.zst"))
        assert (done.returncode, f"incident {incident.name} is not sealed" in done.stderr) == (64, True), done.stderr


def test_export_refuses_to_write_to_a_terminal_and_to_mix_with_json(config: Path) -> None:
    """A terminal would be garbled, and a script would get a document behind a tar archive."""
    collect(config, "--only", "memory")
    leader, follower = pty.openpty()
    try:
        done = collector(
            config, "export", "latest", "-o", "-", capture_output=False, stdout=follower, stderr=subprocess.PIPE
        )
        assert (done.returncode, "is a terminal" in done.stderr) == (64, True)
    finally:
        os.close(leader)
        os.close(follower)
    mixed = collector(config, "export", "latest", "-o", "-", "--json")
    assert (mixed.returncode, json.loads(mixed.stdout)["exit_code"]) == (64, 64)


def bulky(config: Path) -> None:
    """Make an incident whose export is larger than any pipe holds."""
    incident = collect(config, "--only", "memory")
    with (incident / "memory" / "bulk").open("wb") as file:
        for _ in range(8):
            file.write(os.urandom(MIB))


def waiting_in(pipe: int) -> int:
    """Return how many bytes can be read from a pipe. Source: pipe(7), FIONREAD."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def test_export_ends_without_a_word_when_its_reader_does(config: Path) -> None:
    """As `| head` does; the status is what a shell reports for SIGPIPE."""
    bulky(config)
    command = [*COLLECTOR, "export", "latest", "-o", "-", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        assert packing.stderr is not None
        packing.stdout.read(10)
        packing.stdout.close()
        assert packing.stderr.read() == b""
    assert packing.returncode == 141


def test_export_ends_on_a_signal_while_its_reader_sleeps(config: Path) -> None:
    """A write to a full pipe would go on after the signal, for as long as the reader likes."""
    bulky(config)
    command = [*COLLECTOR, "export", "latest", "-o", "-", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        assert packing.stderr is not None
        pipe = packing.stdout.fileno()
        wait_for(lambda: waiting_in(pipe) >= PIPE_BYTES - select.PIPE_BUF, "full pipe")
        packing.send_signal(signal.SIGTERM)
        assert packing.wait(30) == 128 + signal.SIGTERM
        assert b"what was written is not complete" in packing.stderr.read()


@pytest.mark.parametrize("where", ["/dev/shm", "."])
def test_export_to_a_redirected_file_is_synced_and_refuses_tmpfs(config: Path, tmp_path: Path, where: str) -> None:
    """`> FILE` is no pipe: it would fill the page cache, or the memory itself."""
    collect(config, "--only", "memory")
    path = tmp_path / where / f"export-{os.getpid()}.tar.zst"
    try:
        with path.open("wb") as file:
            done = collector(
                config, "export", "latest", "-o", "-", capture_output=False, stdout=file, stderr=subprocess.PIPE
            )
        expected = (0, False) if where == "." else (73, True)
        assert (done.returncode, "is on tmpfs" in done.stderr) == expected, done.stderr
        if where == ".":
            run("zstd", "-q", "-t", path)
    finally:
        path.unlink(missing_ok=True)
