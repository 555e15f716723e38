"""Cores that an attacker made: no damage does more than cost their backtraces."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import msgspec
import pytest
from crashes import kernel_core, open_core
from machine import compiled

from collector.host.elfcore import CoreError
from collector.report.backtraces import backtraces
from collector.report.debugger import MismatchError, program_of
from collector.report.trace_text import trace_lines

pytestmark = [pytest.mark.root, pytest.mark.needs("gcc")]
ROUNDS = 60
MOST_LINES = 5000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    room = tmp_path_factory.mktemp("hostile")
    program = compiled(Path(__file__).parents[1] / "crashing.c", room, "-pthread", "-fno-inline")
    return kernel_core([program, "threads", "3"], room / "core").read_bytes()


@pytest.mark.parametrize("top", [64, 4096, 20_000, None], ids=str)
def test_backtraces_of_a_damaged_core_are_printable_or_missing(whole: bytes, tmp_path: Path, top: int | None) -> None:
    """Damage in the ELF header, the segment table, the notes or anywhere; cut off or not."""
    chance = random.Random(top)
    for _ in range(ROUNDS // 4):
        core = tmp_path / "core"
        core.write_bytes(damaged(whole, chance, top or len(whole)))
        with open_core(core) as opened:
            found = backtraces(opened)
        lines = list(trace_lines(found))
        assert len(lines) < MOST_LINES
        assert all(line.isprintable() for line in lines)
        assert msgspec.json.encode(found)


def test_program_of_a_damaged_core_is_found_or_refused(whole: bytes, tmp_path: Path) -> None:
    """Whatever its tables and notes claim; never is it another one."""
    chance = random.Random(1)
    for _ in range(ROUNDS):
        core = tmp_path / "core"
        core.write_bytes(damaged(whole, chance, 20_000))
        with core.open("rb") as file, contextlib.suppress(CoreError, MismatchError):
            assert program_of(file.fileno(), None).path.endswith("/crashing")


def test_names_in_a_core_cannot_move_the_cursor(whole: bytes, tmp_path: Path) -> None:
    """The kernel's list of mapped files holds names that a user chose."""
    name = b"crashing\0"
    core = tmp_path / "core"
    core.write_bytes(whole.replace(name, b"c\x1b[2J\x07g\xff\0"))
    with open_core(core) as opened:
        lines = list(trace_lines(backtraces(opened)))
    assert any("\\x1b[2J" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def damaged(whole: bytes, chance: random.Random, top: int) -> bytes:
    """Return *whole* with other bytes among its first *top*, and sometimes cut off."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 60)):
        data[chance.randrange(top)] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)
