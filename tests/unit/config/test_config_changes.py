"""Changes of the files, as a daemon that looks now and then sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.config.changes import Changes


@pytest.fixture
def main(tmp_path: Path) -> Path:
    path = tmp_path / "collector.yaml"
    path.write_text("version: 1\n")
    return path


def test_changes_are_told_until_loaded_and_only_when_they_lie_still(main: Path) -> None:
    """A file that is being written is left alone until it has not changed between two looks."""
    changes = Changes(str(main))
    assert not changes.due()
    main.write_text("version: 1\narch")
    assert not changes.due()
    main.write_text("version: 1\narchive: {}\n")
    assert not changes.due()
    assert changes.due()
    changes.loading()
    assert not changes.due()


def test_changes_see_drop_ins_come_and_go(main: Path) -> None:
    """A new drop-in is a change, and so is one that is removed."""
    changes = Changes(str(main))
    drop_in = main.parent / "conf.d" / "a.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("copy: {}\n")
    assert [changes.due(), changes.due()] == [False, True]
    changes.loading()
    drop_in.unlink()
    assert [changes.due(), changes.due()] == [False, True]


def test_changes_that_come_between_start_and_first_look_are_told(main: Path) -> None:
    """What was loaded counts, not what was there when somebody first looked."""
    changes = Changes(str(main))
    changes.loading()
    main.write_text("version: 1\narchive: {}\n")
    assert [changes.due(), changes.due()] == [False, True]


def test_changes_see_a_file_that_is_renamed_into_place(main: Path) -> None:
    """Most editors and every configuration manager replace the file instead of writing to it."""
    changes = Changes(str(main))
    new = main.parent / "new"
    new.write_text("version: 1\n")
    new.replace(main)
    assert [changes.due(), changes.due()] == [False, True]


def test_changes_survive_a_file_that_is_gone(main: Path) -> None:
    """Between unlink and rename there is no file: that is a change like any other, and no error."""
    changes = Changes(str(main))
    main.unlink()
    assert [changes.due(), changes.due()] == [False, True]
