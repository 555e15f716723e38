"""An archive as it is read back, damaged or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.archive.read import ArchiveReader
from collector.model.errors import ArchiveError

ID = "20261128T001933.000000Z-abcdef"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "manifest.json is gone"), (b"{", "the manifest cannot be read: Input data was truncated")],
)
def test_incident_without_its_manifest_says_where_the_rest_is(tmp_path: Path, content: bytes | None, said: str) -> None:
    """The evidence is not lost with it: the journal that it was made from stays."""
    (tmp_path / ID).mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    if content is not None:
        (tmp_path / ID / "manifest.json").write_bytes(content)
    with ArchiveReader(str(tmp_path)) as archive, pytest.raises(ArchiveError) as caught:
        archive.read(ID)
    assert str(caught.value) == f"incident {ID}: {said}"
    where = f"{tmp_path}/{ID}; incident.json, steps.jsonl and artifacts.jsonl there"
    assert caught.value.hint == f"its evidence is in {where} say what the manifest did"
