"""How often the same happened, by what the archive holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collector.archive import layout
from collector.archive.ledger import Ledger
from collector.archive.read import ArchiveReader
from collector.model.case import Fate
from collector.model.marker import Marker, MarkerKind
from collector.report.repeats import repeats

MARKER = Marker(kind=MarkerKind.CORE_FILE, trigger="cores", at_s=1.0, comm="engine")


@pytest.mark.parametrize("ending", ["", layout.PARTIAL])
def test_incident_is_counted_with_those_before_it(tmp_path: Path, ending: str) -> None:
    """Also while it is in progress: it must not be the third of two."""
    ids = [f"20261128T00000{number}.000000Z-00000{number}" for number in range(4)]
    for name in (*ids[:3], ids[3] + ending):
        (tmp_path / name / "core").mkdir(mode=0o700, parents=True)
        (tmp_path / name / "core/core.json").write_text(
            json.dumps({"signature": "other" if name == ids[1] else "same"})
        )
    tmp_path.chmod(0o700)
    with ArchiveReader(str(tmp_path)) as archive:
        found = repeats(archive, ids[3], MARKER, signature="same", summary="core/core.json", ledger=False)
    assert found is not None
    assert (found.number, found.count, str(found.last)[:19]) == (3, 3, "2026-11-28 00:00:03")


@pytest.mark.parametrize(("owner", "said"), [("uid 7", "at least 2 more"), ("uid 8", "2 more")])
def test_repeats_say_where_the_ledger_has_only_counted_some(tmp_path: Path, owner: str, said: str) -> None:
    """Beyond its user's share, no row says which program it was: what is known is a lower bound then."""
    incident = "20261128T000000.000000Z-000000"
    (tmp_path / incident).mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    ledger = Ledger(str(tmp_path / layout.LEDGER))
    for _ in range(2):
        ledger.record(MARKER, pipeline="crash", owner="uid 7", fate=Fate.SUPPRESSED)
    ledger.decide(ledger.announce(MARKER, pipeline="crash", owner=owner), Fate.SUPPRESSED)
    ledger.close()
    with ArchiveReader(str(tmp_path)) as archive:
        found = repeats(archive, incident, MARKER, signature="", summary="", ledger=True)
    assert found is not None
    assert found.others == f"{said} recorded only"
