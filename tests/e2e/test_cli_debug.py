"""`collector debug` on incidents of real crashes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from configuration import config_of, write_config
from crashes import archive_core, kernel_core
from harness import COLLECTOR
from machine import compiled

pytestmark = [pytest.mark.root, pytest.mark.needs("gcc", "gdb", "zstd")]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("debug")


@pytest.fixture(scope="module")
def program(room: Path) -> Path:
    return compiled(TESTS / "inlined.c", room, "-O2", "-g")


@pytest.fixture(scope="module")
def core(program: Path, room: Path) -> Path:
    return kernel_core([program], room / "core")


@pytest.fixture(scope="module")
def plain(core: Path, room: Path) -> Path:
    """An archive with an incident that holds the core as the kernel wrote it."""
    archive_core(core, room / "plain")
    return room / "plain"


@pytest.fixture(scope="module")
def packed(core: Path, room: Path) -> Path:
    """An archive with an incident that holds the core compressed."""
    subprocess.run(["zstd", "-q", core], check=True)
    archive_core(core.with_name("core.zst"), room / "packed")
    return room / "packed"


def collector(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COLLECTOR, *map(str, arguments)], capture_output=True, check=False, **options)  # type: ignore[call-overload]
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def environment(scratch: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch), **more}


def test_debug_starts_gdb_with_the_program_and_the_core(plain: Path, packed: Path, tmp_path: Path) -> None:
    """A compressed core is unpacked to a file that has no name, neither then nor afterwards."""
    for archive in (plain, packed):
        commands = b"set style enabled off\nset pagination off\nbt\nshell ls -A $TMPDIR\n"
        run = collector("debug", "latest", "--archive", archive, input=commands, env=environment(tmp_path))
        assert run.returncode == 0, run.stderr
        assert "price_order (" in run.stdout
        assert "match_book (" in run.stdout
        assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
        assert "warning: core file may not match" not in run.stderr
    assert (plain / incident_of(plain) / "step0/core").exists()


def incident_of(archive: Path) -> str:
    return json.loads(collector("list", "--json", "--archive", archive).stdout)["incidents"][-1]["id"]


def test_debug_leaves_nothing_behind_when_gdb_is_killed(packed: Path, tmp_path: Path) -> None:
    """The exit status is gdb's."""
    run = collector(
        "debug", "latest", "--archive", packed, input=b"shell kill -KILL $PPID\n", env=environment(tmp_path)
    )
    assert run.returncode == -9
    assert list(tmp_path.rglob("*core*")) == []


def test_debug_print_gives_a_command_that_works(plain: Path, packed: Path, program: Path, tmp_path: Path) -> None:
    """For whoever wants to add to it."""
    config = write_config(tmp_path, config_of(archive={"path": str(plain)}))
    printed = collector("debug", "latest", "--print", "--config", config)
    assert printed.stdout == f"gdb {program} {plain}/{incident_of(plain)}/step0/core\n"
    printed = collector("debug", "latest", "--print", "--archive", packed)
    unpack, _, gdb = printed.stdout.strip().partition(" && ")
    assert unpack == f"zstd -dc {packed}/{incident_of(packed)}/step0/core > /var/tmp/{incident_of(packed)}.core"
    assert shlex.split(gdb) == ["gdb", str(program), f"/var/tmp/{incident_of(packed)}.core"]


def test_debug_refuses_a_program_that_does_not_match(plain: Path, program: Path, tmp_path: Path) -> None:
    """It names both build-ids; --exe names another file, which must match as well."""
    other = compiled(TESTS / "crashing.c", tmp_path, "-pthread")
    run = collector("debug", "latest", "--exe", other, "--archive", plain)
    assert run.returncode == 73
    ids = [word.strip(",") for word in run.stderr.split() if len(word.strip(",")) == 40]
    assert len(set(ids)) == 2
    assert f"{other}: its build-id is {build_id(other)}, the core's {build_id(program)}" in run.stderr
    moved = tmp_path / "moved"
    shutil.copy(program, moved)
    run = collector("debug", "latest", "--print", "--exe", moved, "--archive", plain)
    assert (run.returncode, run.stdout.split()[1]) == (0, str(moved))


def build_id(path: Path) -> str:
    notes = subprocess.run(["readelf", "-n", path], capture_output=True, check=True).stdout.decode()
    return notes.partition("Build ID: ")[2].split()[0]


def test_debug_refuses_a_program_that_is_gone(tmp_path: Path) -> None:
    """It says where it looked, and how to name another."""
    program = compiled(TESTS / "inlined.c", tmp_path, "-DGONE")
    core = kernel_core([program], tmp_path / "core")
    archive_core(core, tmp_path / "archive")
    program.unlink()
    run = collector("debug", "latest", "--archive", tmp_path / "archive")
    assert run.returncode == 73
    assert f"{program}: No such file or directory" in run.stderr
    assert "--exe PATH" in run.stderr


def test_debug_without_gdb_says_what_to_install_and_what_to_run(plain: Path, program: Path, tmp_path: Path) -> None:
    """On another machine, or after the installation."""
    run = collector("debug", "latest", "--archive", plain, env=environment(tmp_path, PATH=str(tmp_path)))
    assert run.returncode == 69
    assert "gdb is not installed" in run.stderr
    assert "`apt install gdb`" in run.stderr
    assert f"gdb {program} {plain}" in run.stderr


def test_debug_downloads_nothing_unless_asked(plain: Path, tmp_path: Path) -> None:
    """A core names build-ids: they would tell a server what crashed here."""
    asked = environment(tmp_path, DEBUGINFOD_URLS="http://127.0.0.1:9/")
    command = b"shell echo urls=$DEBUGINFOD_URLS.\n"
    run = collector("debug", "latest", "--archive", plain, input=command, env=asked)
    assert "urls=.\n" in run.stdout
    run = collector("debug", "latest", "--debuginfod", "--archive", plain, input=command, env=asked)
    assert "urls=http://127.0.0.1:9/.\n" in run.stdout
