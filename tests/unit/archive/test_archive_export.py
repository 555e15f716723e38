"""Export: holes are not read, not stored, and there again when the archive is unpacked."""

from __future__ import annotations

import filecmp
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from copying_fixtures import run
from machine import need

from collector.archive.dropping import DroppingWriter
from collector.archive.export import Copied, created, export
from collector.archive.layout import MANIFEST
from collector.archive.read import ArchiveReader, encode_manifest
from collector.archive.sparse import SparseMap
from collector.host.filesystem import cached_pages, flush_and_drop
from collector.model.errors import ArchiveError
from collector.model.incident import IncidentState, Manifest
from collector.model.marker import Marker, MarkerKind

MIB = 1 << 20
GIB = 1 << 30
INCIDENT = "20261128T000000.000000Z-aaaaaa"
LONG = "n" * 120
ALIEN = os.fsdecode(b"\xff\xfe")

SPARSE: dict[str, tuple[int, list[tuple[int, bytes]]]] = {
    "large": (24 * GIB, [(number * 3 * GIB, os.urandom(MIB)) for number in range(8)]),
    "hole": (15 << 40, []),
    "end": (GIB, [(GIB - 5, b"the e")]),
    "odd": (3 * MIB + 7, [(0, b"begin"), (MIB, b"middle")]),
    LONG: (MIB, [(8192, b"x")]),
    ALIEN: (MIB, [(8192, b"y")]),
    "dense": (5, [(0, b"dense")]),
    "empty": (0, []),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An archive with one incident, which holds the files of `SPARSE`."""
    archive = tmp_path / "archive"
    archive.mkdir(mode=0o700)
    manifest = Manifest(
        version=1, id=INCIDENT, pipeline="crash", markers=(Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=1.0),),
        host="box", boot_id="b", kernel="6.18", collector_version="0", config_hash="c", started_s=1.0, ended_s=1.0,
        state=IncidentState.COMPLETE,
    )  # fmt: skip
    step = archive / INCIDENT / "step"
    step.mkdir(parents=True)
    (archive / INCIDENT / MANIFEST).write_bytes(encode_manifest(manifest))
    for name, (size, pieces) in SPARSE.items():
        with (step / name).open("wb") as file:
            file.truncate(size)
            for offset, data in pieces:
                os.pwrite(file.fileno(), data, offset)
    return archive


def exported(archive: Path, path: Path) -> int:
    write(archive, path, lambda: None)
    return path.stat().st_size


def write(archive: Path, path: Path, check: Callable[[], None]) -> None:
    """Export the files as they are."""
    members = [Copied(name, name) for name in (MANIFEST, *(f"step/{name}" for name in sorted(SPARSE)))]
    with ArchiveReader(str(archive)) as opened, created(str(path)) as fd:
        export(opened, INCIDENT, members, DroppingWriter(fd, str(path), check), check=check)


def test_export_is_unpacked_by_gnu_tar_with_its_holes(directory: Path, tmp_path: Path) -> None:
    """Bytes, lengths and holes are as they were; 24 GiB with 8 MiB of data take 8 MiB, everywhere."""
    need("zstd")
    bundle = tmp_path / "bundle.tar.zst"
    assert exported(directory, bundle) < 10 * MIB
    run("tar", "--zstd", "-xf", bundle, "-C", tmp_path)
    for name, (size, pieces) in SPARSE.items():
        path = tmp_path / INCIDENT / "step" / name
        status = path.stat()
        assert status.st_size == size
        assert status.st_blocks * 512 <= sum(len(data) + 2 * 4096 for _, data in pieces)
        with path.open("rb") as file:
            assert all(os.pread(file.fileno(), len(data), offset) == data for offset, data in pieces)
    assert sorted(os.listdir(tmp_path / INCIDENT / "step")) == sorted(SPARSE)


def test_export_is_unpacked_by_bsdtar_with_its_holes(directory: Path, tmp_path: Path) -> None:
    """It is what macOS and the BSDs have; it takes no holes of 15 TiB."""
    need("bsdtar")
    bundle = tmp_path / "bundle.tar.zst"
    for name in ("hole", "large"):
        (directory / INCIDENT / "step" / name).write_bytes(b"")
    exported(directory, bundle)
    run("bsdtar", "-xf", bundle, "-C", tmp_path)
    for name in SPARSE:
        path, original = (where / INCIDENT / "step" / name for where in (tmp_path, directory))
        assert filecmp.cmp(path, original, shallow=False), name
        assert path.stat().st_blocks <= original.stat().st_blocks + 16, name


def test_export_is_read_by_pythons_tarfile(directory: Path, tmp_path: Path) -> None:
    """It knows the format, too."""
    bundle = tmp_path / "bundle.tar.zst"
    exported(directory, bundle)
    run("zstd", "-q", "-d", bundle)
    with tarfile.open(tmp_path / "bundle.tar", encoding="utf-8", errors="surrogateescape") as tar:
        sizes = {member.name.rpartition("/")[2]: member.size for member in tar if "/step/" in member.name}
        assert sizes == {name: size for name, (size, _) in SPARSE.items()}
        for name in ("odd", "end", "dense"):
            file = tar.extractfile(f"{INCIDENT}/step/{name}")
            assert file is not None
            for offset, data in SPARSE[name][1]:
                file.seek(offset)
                assert file.read(len(data)) == data


def test_export_of_a_file_that_becomes_shorter_says_so(directory: Path, tmp_path: Path) -> None:
    """And leaves nothing behind."""
    (directory / INCIDENT / "step/dense").write_bytes(os.urandom(4 * MIB))
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == 3:
            os.truncate(directory / INCIDENT / "step/dense", 1)

    with pytest.raises(ArchiveError, match="dense: it has become shorter"):
        write(directory, tmp_path / "bundle", check)
    assert not (tmp_path / "bundle").exists()


def test_export_leaves_nothing_of_a_sparse_file_in_the_page_cache(directory: Path, tmp_path: Path) -> None:
    """The kernel reads ahead into the holes: what it read there is dropped, too, and the end of the last range."""
    path = directory / INCIDENT / "step/dense"
    with path.open("wb") as file:
        for number in range(64):
            os.pwrite(file.fileno(), os.urandom(MIB), number * 5 * MIB)
        file.truncate(5 * 64 * MIB)
        flush_and_drop(file.fileno(), 0, 5 * 64 * MIB)
    exported(directory, tmp_path / "bundle")
    with path.open("rb") as file:
        assert not cached_pages(file.fileno(), 0, 5 * 64 * MIB)


def test_map_joins_ranges_when_there_are_too_many() -> None:
    """The shortest holes are written out first; nothing of the data is left out."""
    ranges = [(start, start + 1) for start in range(0, 100 * 10_000, 10_000)]
    found = SparseMap([*ranges, (2_000_000, 2_000_001)], 3_000_000, most=10)
    assert found.ranges == [(0, 990_001), (2_000_000, 2_000_001)]
    assert SparseMap(ranges, 3_000_000, most=100).ranges == ranges
    assert SparseMap([], 5).text().startswith(b"1\n5\n0\n\0")
