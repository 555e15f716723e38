"""Which line of the journal matters."""

from __future__ import annotations

import json
import os
from pathlib import Path

from collector.model.artifact import ArtifactRecord
from collector.model.marker import Marker, MarkerKind
from collector.report.documents import Documents
from collector.report.last_words import last_words

OF_THE_UNIT = {"MESSAGE": "loading orders", "_PID": "4000078", "_TRANSPORT": "stdout"}
OF_A_DAEMON = {
    "MESSAGE": "engine[4000077] died by SIGSEGV; archived as 18e1c2, complete, 23.0 MiB",
    "_PID": "4000079", "_TRANSPORT": "journal", "OBJECT_SYSTEMD_UNIT": "engine.service",
}  # fmt: skip


def test_last_words_of_a_unit_are_its_own(tmp_path: Path) -> None:
    """What root's daemons say about it, as this one did about its last crash, is not what it said."""
    rows = [{"wall_s": float(number), "fields": fields} for number, fields in enumerate((OF_THE_UNIT, OF_A_DAEMON))]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/journal.jsonl").write_text(text, encoding="utf-8")
    fd = os.open(tmp_path, os.O_RDONLY)
    record = ArtifactRecord(path="journal/journal.jsonl", size_bytes=len(text), data_bytes=len(text))
    try:
        lines = last_words(Documents(fd, (), (record,)), Marker(kind=MarkerKind.EXIT, trigger="t", at_s=9.0, signal=11))
    finally:
        os.close(fd)
    assert [(line.text, line.matters) for line in lines] == [
        (OF_THE_UNIT["MESSAGE"], True),
        (OF_A_DAEMON["MESSAGE"], False),
    ]
