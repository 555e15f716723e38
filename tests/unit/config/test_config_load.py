"""Loading: files to values, with the place of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.config.load import load
from collector.model.errors import ConfigError


def test_config_packaged_default_loads() -> None:
    """What is shipped is right."""
    loaded = load(None)
    assert loaded.config.archive.path == "/var/lib/collector"
    assert loaded.config.archive.reserve.bytes_of(1000) == 50
    assert loaded.config.pressure.floor == 512 << 20
    assert loaded.origins[("archive", "path")].line > 1


def test_config_reports_every_mistake_with_its_place(tmp_path: Path) -> None:
    """One run shows all errors: an operator fixes a file once, not once per mistake."""
    path = tmp_path / "c.yaml"
    path.write_text("version: 1\narchve: {}\npressure:\n  floor: 512M\n  wait: no\n")
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert [str(problem.mark) for problem in caught.value.problems] == [f"{path}:{p}" for p in ("2:1", "4:10", "5:9")]
