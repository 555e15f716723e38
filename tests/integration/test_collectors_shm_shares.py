"""What other users plant in /dev/shm, on a tmpfs of the test's own that takes its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fake_core
import msgspec
import pytest
from collecting import Collected, collect, context, core_ref, manual
from machine import tmpfs

from collector.collectors.base import Context
from collector.collectors.shm.shm import Shm
from collector.host import tree
from collector.model.marker import Marker

pytestmark = pytest.mark.root
NOBODY, CONTAINER = 65534, 200_000
OWN = "engine.own"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A root directory whose /dev/shm is a tmpfs, and where uids from 200,000 on are those of uid 65534."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "subuid").write_text(f"{NOBODY}:{CONTAINER}:65536\n")
    with tmpfs(tmp_path / "dev" / "shm"):
        yield tmp_path


def segment(machine: Path, name: str, data: bytes = b"", *, uid: int = 0) -> None:
    path = machine / "dev" / "shm" / name
    path.write_bytes(data)
    os.chown(path, uid, uid)


def plant(machine: Path, count: int, *, prefix: str = "engine.", data: bytes = b"") -> None:
    """Create segments as one user, under all of his uids."""
    for number in range(count):
        segment(machine, f"{prefix}{number}", data, uid=CONTAINER + number if number % 2 else NOBODY)


def crashed(machine: Path, *names: str) -> Marker:
    """Return the marker of a crash of root's whose process had segments mapped."""
    files = [(0x1000, 0x2000, 0, f"/dev/shm/{name}".encode()) for name in names]
    (machine / "core").write_bytes(fake_core.core(fake_core.note(fake_core.NT_FILE, fake_core.nt_file(files))))
    core = core_ref(str(machine / "core"))
    return manual(core=msgspec.structs.replace(core, path="/core"))


def here(machine: Path, marker: Marker | None = None) -> Context:
    return context(marker, root=str(machine))


def taken(collected: Collected) -> list[str]:
    return [row["name"] for row in collected.rows("segments.jsonl") if row.get("artifact")]


def listed(collected: Collected) -> list[str]:
    return [row["name"] for row in collected.rows("inventory.jsonl")]


def test_shm_takes_what_the_crash_had_mapped_and_roots_though_others_planted_more_than_the_limit(
    machine: Path,
) -> None:
    """4,200 empty segments of one user that match the glob, before and after: he gives way, and the plan says so."""
    plant(machine, 2100, prefix="engine.before.")
    segment(machine, OWN, b"evidence")
    segment(machine, "engine.roots", b"more evidence")
    plant(machine, 2100, prefix="engine.after.")
    marker = crashed(machine, OWN)
    collected = collect(Shm(segments=("engine.*",), max_segments=500), here(machine, marker))
    assert taken(collected)[0] == OWN
    assert "engine.roots" in taken(collected)
    assert len(taken(collected)) == 500
    assert f"3702 of the wanted segments are beyond max_total or max_segments (uid {NOBODY}: 3702)" == str(
        collected.artifacts["segments.jsonl"].cut
    )
    previewed = [row.name for row in Shm(segments=("engine.*",), max_segments=500).preview(here(machine, marker))]
    assert previewed[:2] == [OWN, previewed[1]]
    assert "engine.roots" in previewed


def test_shm_looks_up_by_name_what_the_crash_had_mapped_and_what_is_named_literally(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many names stand before them: only what a wildcard names depends on how many are looked at."""
    monkeypatch.setattr(tree, "MAX_NAMES", 2048)  # of a million
    for name in (OWN, "literal", "data.roots"):
        segment(machine, f"{name}.last", name.encode())
    plant(machine, 1000)
    for name in (OWN, "literal", "data.roots"):
        segment(machine, name, name.encode())
    names = (OWN, f"{OWN}.last")
    collected = collect(Shm(segments=("literal", "literal.last", "data.*")), here(machine, crashed(machine, *names)))
    assert taken(collected)[:4] == [*names, "literal", "literal.last"]
    assert "not all names were compared with segments (everybody: 1 directories)" in collected.missing
    assert "too many names are not listed to their end (everybody: 1)" in str(
        collected.artifacts["inventory.jsonl"].cut
    )


def test_shm_inventory_comes_last_and_is_fair_when_it_is_cut(machine: Path) -> None:
    """What root has is listed, and who had too many; the largest of each come first."""
    plant(machine, 300, data=b"x")
    segment(machine, "large", b"x" * 100_000, uid=NOBODY)
    segment(machine, "roots")
    collected = collect(Shm(max_inventory=50), here(machine))
    assert list(collected.artifacts) == ["segments.jsonl", "inventory.jsonl"]
    assert len(listed(collected)) == 50
    assert {"large", "roots"} <= set(listed(collected))
    assert listed(collected)[0] == "large"
    assert f"252 files are beyond max_inventory (uid {NOBODY}: 252)" == str(collected.artifacts["inventory.jsonl"].cut)


def test_shm_total_is_shared_by_the_owners_of_what_globs_name(machine: Path) -> None:
    """Many small segments of one user, which come first, leave the others their share; the crash's own come before."""
    plant(machine, 100, data=b"x" * 4096)
    segment(machine, OWN, b"x" * 40_960)
    for uid in (0, 1001):
        segment(machine, f"engine.of.{uid}", b"x" * 40_960, uid=uid)
    collected = collect(
        Shm(segments=("engine.*",), max_total=200 << 10),
        here(machine, crashed(machine, OWN)),  # type: ignore[arg-type]
    )
    assert taken(collected)[0] == OWN
    assert {"engine.of.0", "engine.of.1001"} <= set(taken(collected))
    assert len(taken(collected)) == 23


def test_shm_directories_of_one_user_leave_those_of_others_their_share(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,100 of his, each with a segment, and one of root's among them; three thousand levels are not descended."""
    monkeypatch.setattr(tree, "MAX_NAMES", 20_000)
    shm = machine / "dev" / "shm"
    for number in range(1100):
        if number == 550:
            (shm / "roots").mkdir()
            segment(machine, "roots/engine.1")
        (shm / f"d{number}").mkdir()
        segment(machine, f"d{number}/engine.1", uid=NOBODY)
        os.chown(shm / f"d{number}", NOBODY, NOBODY)
    inner = os.open(shm, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=inner)
        outer, inner = inner, os.open("deep", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    collected = collect(Shm(segments=("engine.*",)), here(machine))
    assert "roots/engine.1" in taken(collected)
    assert f"(uid {NOBODY}: " in collected.missing
    assert [row["meaning"] for row in collected.rows("unread.jsonl") if "deep/deep" in row["path"]] == [
        "more than 16 directories deep"
    ] * 2
