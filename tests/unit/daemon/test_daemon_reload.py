"""The configuration in force: changed files, and keys that take effect only after a restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from collector.daemon.reload import ChangedFiles, Configuration


@pytest.fixture
def main(tmp_path: Path) -> Path:
    path = tmp_path / "collector.yaml"
    path.write_text("version: 1\n")
    return path


def test_changed_files_are_reported_until_loaded_and_only_once_complete(main: Path) -> None:
    """A file that is being written is not reported until two checks in a row find it the same."""
    changes = ChangedFiles(str(main))
    assert not changes.have_changed()
    main.write_text("version: 1\narch")
    assert not changes.have_changed()
    main.write_text("version: 1\narchive: {}\n")
    assert not changes.have_changed()
    assert changes.have_changed()
    changes.loading()
    assert not changes.have_changed()


def test_changed_files_include_drop_ins(main: Path) -> None:
    """A new drop-in is a change, and so is one that is removed."""
    changes = ChangedFiles(str(main))
    drop_in = main.parent / "conf.d" / "a.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("copy: {}\n")
    assert [changes.have_changed(), changes.have_changed()] == [False, True]
    changes.loading()
    drop_in.unlink()
    assert [changes.have_changed(), changes.have_changed()] == [False, True]


def test_changed_files_include_changes_before_the_first_check(main: Path) -> None:
    """They are compared with what was loaded, not with the first check."""
    changes = ChangedFiles(str(main))
    changes.loading()
    main.write_text("version: 1\narchive: {}\n")
    assert [changes.have_changed(), changes.have_changed()] == [False, True]


def test_changed_files_include_one_that_is_renamed_into_place(main: Path) -> None:
    """Most editors and every configuration manager replace the file instead of writing to it."""
    changes = ChangedFiles(str(main))
    new = main.parent / "new"
    new.write_text("version: 1\n")
    new.replace(main)
    assert [changes.have_changed(), changes.have_changed()] == [False, True]


def test_changed_files_include_one_that_is_gone(main: Path) -> None:
    """Between unlink and rename there is no file: a change like any other, not an error."""
    changes = ChangedFiles(str(main))
    main.unlink()
    assert [changes.have_changed(), changes.have_changed()] == [False, True]


CONFIG = """
version: 1
archive: {path: %s}
triggers: []
pipelines: {crash: {steps: [{id: memory, collector: proc_files}]}}
"""
CHANGED = {
    "archive.path": "/nonexistent/archive",
    "archive.reserve": "1%",
    "archive.keep": {"count": 7},
    "archive.group": "games",
    "runtime.directory": "/nonexistent/run",
    "runtime.workers": 3,
    "runtime.nice": 1,
    "runtime.ionice": "none",
    "runtime.incident_timeout": "5m",
    "runtime.stop_grace": "5s",
    "runtime.reload_on_change": True,
}
"""Each key of the two sections, and a value that is not its default."""


def in_force(configuration: Configuration) -> dict[str, object]:
    """Return what the daemon reads from the configuration whenever it needs it, by key."""
    generation = configuration.generation
    return {
        "archive.path": generation.settings.archive,
        "archive.reserve": generation.settings.reserve,
        "archive.keep": generation.loaded.config.archive.keep,
        "runtime.directory": generation.runtime_directory,
        "runtime.incident_timeout": generation.pipelines["crash"].timeout_s,
        "runtime.stop_grace": generation.loaded.config.runtime.stop_grace_s,
        "runtime.reload_on_change": generation.loaded.config.runtime.reload_on_change,
    }


def test_reload_is_tested_with_every_key(main: Path) -> None:
    """A new key of the two sections must say what a reload makes of it."""
    main.write_text(CONFIG % main.parent)
    config = Configuration(str(main), None).generation.loaded.config
    sections = {"archive": config.archive, "runtime": config.runtime}
    assert set(CHANGED) == {
        f"{name}.{field.encode_name}" for name, section in sections.items() for field in msgspec.structs.fields(section)
    }


@pytest.mark.parametrize("key", CHANGED)
def test_reload_puts_a_key_in_force_or_names_it(main: Path, key: str) -> None:
    """One or the other, for each key: a reload never ignores a change without saying so."""
    main.write_text(CONFIG % main.parent)
    configuration = Configuration(str(main), None)
    before = in_force(configuration)
    document = yaml.safe_load(main.read_text())
    section, _, name = key.partition(".")
    document[section] = {**document.get(section, {}), name: CHANGED[key]}
    main.write_text(yaml.safe_dump(document))
    assert configuration.reload()
    took_effect = in_force(configuration).get(key) != before.get(key)
    assert [key] * (not took_effect) == list(configuration.after_restart)
    assert configuration.reply().message == ("" if took_effect else f"after a restart: {key}")


def test_reload_of_a_bad_file_changes_nothing(main: Path) -> None:
    """Its mistakes are the answer, with exit status 78."""
    main.write_text(CONFIG % main.parent)
    configuration = Configuration(str(main), None)
    generation = configuration.generation
    main.write_text("version: 7\n")
    assert not configuration.reload()
    assert configuration.generation is generation
    assert configuration.reply().exit_code == 78
    assert "version" in configuration.reply().message


def test_reload_ignores_an_archive_that_the_command_line_overrides(main: Path) -> None:
    """With ``--archive`` the key is not in force, so that its change needs no restart."""
    main.write_text(CONFIG % main.parent)
    configuration = Configuration(str(main), str(main.parent / "given"))
    main.write_text(CONFIG % "/elsewhere")
    assert configuration.reload()
    assert configuration.after_restart == ()
