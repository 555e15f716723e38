"""
Broken files and their diagnostics: each `broken_configs/NAME.yaml` has its `NAME.expected`.

The expected text is what an operator sees, without the directory.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collector.model.diagnostics import Severity
from collector.model.errors import ConfigError
from collector.pipeline.compile import prepare
from collector.triggers.registry import TRIGGERS

DIRECTORY = Path(__file__).parents[2] / "broken_configs"
BROKEN = sorted(DIRECTORY.glob("*.yaml"))


def said_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(str(path), TRIGGERS)
    assert caught.value.exit_code == 78
    return "".join(f"{diagnostic}\n".replace(f"{DIRECTORY}/", "") for diagnostic in caught.value.diagnostics)


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_config_broken_file_is_reported_with_its_place(path: Path) -> None:
    """Every mistake is reported with file, line, column, a sentence, and usually a hint."""
    said = said_of(path)
    assert said == path.with_suffix(".expected").read_text(encoding="utf-8")
    for line in said.splitlines():
        assert re.match(rf"{path.name}:[1-9][0-9]*:[1-9][0-9]*: (error|warning): .{{10,}}", line), line


def test_config_broken_files_are_many() -> None:
    """The collection covers at least a hundred different mistakes, and no expectation without a file."""
    said = {path.with_suffix(".expected").read_text(encoding="utf-8").partition(": error: ")[2] for path in BROKEN}
    assert len(said) >= 120
    assert {path.stem for path in DIRECTORY.glob("*.expected")} == {path.stem for path in BROKEN}


def test_config_with_ten_errors_reports_ten() -> None:
    """A file is fixed in one go: errors of the loader and of the compiler come together, in the order of lines."""
    with pytest.raises(ConfigError) as caught:
        prepare(str(DIRECTORY / "many_ten_errors.yaml"), TRIGGERS)
    diagnostics = caught.value.diagnostics
    assert len(diagnostics) == 10
    assert all(diagnostic.severity is Severity.ERROR for diagnostic in diagnostics)
    assert [diagnostic.mark.line for diagnostic in diagnostics] == sorted(
        diagnostic.mark.line for diagnostic in diagnostics
    )
