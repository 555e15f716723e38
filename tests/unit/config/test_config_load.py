"""Loading: from files to values, with the place of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collector.config.directories import effective_archive_path, effective_runtime_directory
from collector.config.drop_ins import SYSTEM_PATH
from collector.config.load import Loaded, find, load
from collector.model.diagnostics import Mark
from collector.model.errors import ConfigError

MAIN = """\
version: 1
archive: {path: /srv/crash}
triggers:
  - {id: cores, type: core_files, paths: [/var/crash], pipeline: crash}
pipelines:
  crash:
    steps:
      - id: memory
        collector: proc_files
      - id: log
        collector: dmesg
        with: {since: 15m}
        timeout: 5s
"""


def files(directory: Path, main: str = MAIN, **drop_ins: str) -> str:
    (directory / "collector.yaml").write_text(main)
    for name, text in drop_ins.items():
        (directory / "conf.d").mkdir(exist_ok=True)
        (directory / "conf.d" / f"{name}.yaml").write_text(text)
    return str(directory / "collector.yaml")


def steps(loaded: Loaded) -> list[str]:
    return [step.id for step in loaded.config.pipelines["crash"].steps]


def test_config_packaged_default_loads() -> None:
    """What is shipped is valid, and values know their line."""
    loaded = load(None)
    assert loaded.config.archive.path == "/var/lib/collector"
    assert loaded.config.archive.reserve.bytes_of(1000) == 50
    assert loaded.config.pressure.floor_bytes == 256 << 20
    assert loaded.origins["archive", "path"].line > 1


def test_config_values_are_plain_numbers() -> None:
    """Units are for the reader only: the values are ints and floats that any encoder takes."""
    config = load(None).config
    assert type(config.pressure.floor_bytes) is int
    assert type(config.pressure.wait_s) is float


def test_config_drop_ins_apply_in_lexical_order(tmp_path: Path) -> None:
    """Later files win, key by key, and each value says which file it comes from."""
    path = files(
        tmp_path,
        a="pressure: {floor: 1GiB, wait: 5s}\n",
        b="pressure: {floor: 2GiB}\narchive: {reserve: 10%}\n",
    )
    loaded = load(path)
    assert (loaded.config.pressure.floor_bytes, loaded.config.pressure.wait_s) == (2 << 30, 5.0)
    assert loaded.config.archive.path == "/srv/crash"
    assert loaded.origins["pressure", "floor"] == Mark(f"{tmp_path}/conf.d/b.yaml", 1, 19)
    assert loaded.origins["pressure", "wait"].file == f"{tmp_path}/conf.d/a.yaml"
    assert loaded.files == (path, f"{tmp_path}/conf.d/a.yaml", f"{tmp_path}/conf.d/b.yaml")


def test_config_drop_in_merges_items_by_id(tmp_path: Path) -> None:
    """An item with a known id changes only its keys; one with a new id is appended."""
    change = (
        "pipelines:\n  crash:\n    steps:\n      - {id: log, with: {since: 1h}}\n      - {id: last, collector: dmesg}\n"
    )
    loaded = load(files(tmp_path, a=change))
    assert steps(loaded) == ["memory", "log", "last"]
    log = loaded.config.pipelines["crash"].steps[1]
    assert (log.collector, log.timeout) == ("dmesg", 5.0)
    assert loaded.origins["pipelines", "crash", "steps", 1, "with", "since"].file.endswith("a.yaml")


def test_config_drop_in_replaces_an_item_that_says_so(tmp_path: Path) -> None:
    """With `replace`, nothing of the old item is left."""
    change = "pipelines: {crash: {steps: [{id: log, collector: process_table, replace: true}]}}\n"
    log = load(files(tmp_path, a=change)).config.pipelines["crash"].steps[1]
    assert (log.collector, log.timeout, log.with_.entries) == ("process_table", None, {})


def test_config_drop_in_replaces_a_pipeline_that_says_so(tmp_path: Path) -> None:
    """A whole pipeline can be replaced."""
    change = "pipelines: {crash: {replace: true, steps: [{id: only, collector: dmesg}]}}\n"
    assert steps(load(files(tmp_path, a=change))) == ["only"]


def test_config_drop_in_turns_an_item_off(tmp_path: Path) -> None:
    """A step that is off stays visible in the configuration."""
    change = "pipelines: {crash: {steps: [{id: log, enabled: false}]}}\n"
    assert [step.enabled for step in load(files(tmp_path, a=change)).config.pipelines["crash"].steps] == [True, False]


def test_config_drop_in_mistake_names_the_drop_in(tmp_path: Path) -> None:
    """Errors of all files come together, each with its own file, the main one first."""
    path = files(tmp_path, main=MAIN + "archve: {}\n", a="pressure: {floor: much}\n", b="version: 1\ncopi: {}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [str(diagnostic.mark) for diagnostic in caught.value.diagnostics] == [
        f"{path}:14:1",
        f"{tmp_path}/conf.d/a.yaml:1:19",
        f"{tmp_path}/conf.d/b.yaml:2:1",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "triggers: [{id: coers, paths: [/srv]}]\n",
            "1:17: error: there is no trigger 'coers' in collector.yaml"
            " (did you mean cores? To add one, give it `type` and `pipeline`)",
        ),
        (
            "triggers: [{id: other, enabled: false}]\n",
            "1:17: error: there is no trigger 'other' in collector.yaml"
            " (one of cores. To add one, give it `type` and `pipeline`)",
        ),
        (
            "pipelines: {crash: {steps: [{id: lgo, enabled: false}]}}\n",
            "1:34: error: there is no step 'lgo' in collector.yaml, pipeline crash"
            " (did you mean log? To add one, give it a `collector`)",
        ),
        (
            "pipelines: {crsh: {steps: [{id: log, with: {since: 1h}}]}}\n",
            "1:13: error: there is no pipeline 'crsh' in collector.yaml"
            " (did you mean crash? To add one, give it steps, each with its `collector`)",
        ),
        ("pipelines: {crsh: {timeout: 1h}}\n", "1:13: error: there is no pipeline 'crsh' in collector.yaml (did"),
    ],
)
def test_config_drop_in_that_changes_what_does_not_exist_is_refused(tmp_path: Path, change: str, said: str) -> None:
    """A misspelt id would begin an item of its own: the message is about the id, and only about it."""
    with pytest.raises(ConfigError) as caught:
        load(files(tmp_path, a=change))
    (found,) = caught.value.diagnostics
    assert str(found).removeprefix(f"{tmp_path}/conf.d/a.yaml:").startswith(said)


def test_config_drop_in_may_change_what_a_later_one_adds(tmp_path: Path) -> None:
    """The order of names is for values; what exists is known once all files are read."""
    late = "triggers: [{id: late, type: notify, pipeline: crash}]\n"
    loaded = load(files(tmp_path, a="triggers: [{id: late, enabled: false}]\n", b=late))
    assert [(one.id, one.enabled) for one in loaded.config.triggers] == [("cores", True), ("late", False)]


def test_config_drop_in_that_replaces_nothing_is_warned_of(tmp_path: Path) -> None:
    """It adds a step instead: the old one stays beside it."""
    change = "pipelines: {crash: {steps: [{id: lgo, collector: dmesg, replace: true}]}}\n"
    (found,) = load(files(tmp_path, a=change)).diagnostics
    assert str(found).endswith(
        "a.yaml:1:34: warning: there is no step 'lgo' to replace: this one is added (did you mean log?)"
    )


@pytest.mark.parametrize(
    ("paths", "lost"), [("[/srv]", "/var/crash"), ("[]", "/var/crash"), ("[/srv, /var/crash]", None)]
)
def test_config_drop_in_notes_what_its_list_replaces(tmp_path: Path, paths: str, lost: str | None) -> None:
    """Lists without ids are replaced, and what they lose is in neither file any more."""
    path = files(tmp_path, a=f"triggers: [{{id: cores, paths: {paths}}}]\n")
    found = [str(diagnostic) for diagnostic in load(path).diagnostics]
    assert found == [
        f"{tmp_path}/conf.d/a.yaml:1:31: note: `paths` replaces the list of {path}:4:42, without {lost}"
        " (repeat what is to stay)"
    ] * bool(lost)


def test_config_drop_in_given_as_the_main_file_is_told_apart(tmp_path: Path) -> None:
    """It has no version and no pipelines, as it should."""
    files(tmp_path, a="pressure: {floor: 1GiB}\n")
    with pytest.raises(ConfigError, match=f"this is a drop-in: name the main file.*{tmp_path}/collector.yaml"):
        load(f"{tmp_path}/conf.d/a.yaml")


@pytest.mark.parametrize("below", ["", "/conf.d", "/conf.d/"])
def test_config_directory_is_refused_with_the_name_of_its_file(tmp_path: Path, below: str) -> None:
    """The file is meant, and its drop-ins are read with it."""
    files(tmp_path, a="")
    with pytest.raises(ConfigError, match=f"this is a directory .name the file, such as {tmp_path}/collector.yaml"):
        load(f"{tmp_path}{below}")


def test_config_files_that_are_not_drop_ins_are_ignored(tmp_path: Path) -> None:
    """Editors leave backups and swap files: only *.yaml and *.yml count, and no dot files."""
    path = files(tmp_path)
    (tmp_path / "conf.d").mkdir()
    for name in (".a.yaml", "a.yaml~", "a.yaml.swp", "README", "a.yaml.dpkg-dist", "a.yaml.rpmnew", "a.yaml.BAK"):
        (tmp_path / "conf.d" / name).write_text("{")
    assert (load(path).files, load(path).diagnostics) == ((path,), ())


def test_config_drop_ins_may_end_with_yml(tmp_path: Path) -> None:
    """Half the world writes it so."""
    path = files(tmp_path, a="pressure: {floor: 1GiB}\n", c="pressure: {wait: 5s}\n")
    (tmp_path / "conf.d" / "b.yml").write_text("pressure: {floor: 2GiB, wait: 3s}\n")
    loaded = load(path)
    assert (loaded.config.pressure.floor_bytes, loaded.config.pressure.wait_s) == (2 << 30, 5.0)
    assert loaded.files == (path, *(f"{tmp_path}/conf.d/{name}" for name in ("a.yaml", "b.yml", "c.yaml")))


@pytest.mark.parametrize("name", ["x.YAML", "x.Yml", "x.conf", "x.json"])
def test_config_warns_of_drop_ins_that_are_not_read(tmp_path: Path, name: str) -> None:
    """Somebody believes that it is in force."""
    path = files(tmp_path)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / name).write_text("{")
    loaded = load(path)
    assert loaded.files == (path,)
    assert [str(diagnostic) for diagnostic in loaded.diagnostics] == [
        f"{tmp_path}/conf.d/{name}: warning: this file is not read (call it NAME.yaml)"
    ]


@pytest.mark.parametrize(("name", "hint"), [("local", "call it NAME.yaml, if"), ("x.d/", "move its files")])
def test_config_notes_what_may_have_been_meant_as_a_drop_in(tmp_path: Path, name: str, hint: str) -> None:
    """A name without an ending, or a directory, is in nobody's list of backups."""
    path = files(tmp_path)
    (tmp_path / "conf.d").mkdir()
    if name.endswith("/"):
        (tmp_path / "conf.d" / name).mkdir()
    else:
        (tmp_path / "conf.d" / name).write_text("{")
    (found,) = load(path).diagnostics
    assert str(found).startswith(f"{tmp_path}/conf.d/{name.rstrip('/')}: note: this is not read ({hint}")


@pytest.mark.parametrize("name", ["collector.yaml.d", "collector.d"])
def test_config_warns_of_a_directory_of_drop_ins_by_another_name(tmp_path: Path, name: str) -> None:
    """systemd and others call theirs so."""
    path = files(tmp_path)
    (tmp_path / name).mkdir()
    (found,) = load(path).diagnostics
    assert str(found).startswith(f"{tmp_path}/{name}: warning: this directory is not read (move what is in it into")


def test_config_hash_ignores_layout_and_sees_values(tmp_path: Path) -> None:
    """Two files that mean the same have one hash, however they are written."""
    one, two, three = (tmp_path / name for name in "abc")
    for directory in (one, two, three):
        directory.mkdir()
    plain = load(files(one)).hash
    assert load(files(two, main="# a comment\n" + MAIN.replace("5s", '"5000ms"'))).hash == plain
    assert load(files(three, main=MAIN.replace("5s", "6s"))).hash != plain


@pytest.mark.timeout(10)
def test_config_file_that_a_read_would_hang_on_is_refused(tmp_path: Path) -> None:
    """A FIFO at the path does not block the daemon, and a directory is not a file."""
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "missing", "with\0nul"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(str(tmp_path / name))


def test_config_find_prefers_the_explicit_path() -> None:
    """--config wins; without a system file, the packaged default is used."""
    assert find("/x.yaml") == "/x.yaml"
    assert find(None) == (SYSTEM_PATH if os.path.exists(SYSTEM_PATH) else None)


def test_config_directories_without_root_are_the_users_own(tmp_path: Path) -> None:
    """Defaults move below the user's directories; what the file says explicitly does not."""
    config, explicit = load(None).config, load(files(tmp_path)).config
    environ = {"HOME": "/home/user", "XDG_RUNTIME_DIR": "/run/user/1000"}
    assert effective_archive_path(config, is_root=True, environ=environ) == "/var/lib/collector"
    assert effective_archive_path(config, is_root=False, environ=environ) == "/home/user/.local/state/collector"
    assert effective_archive_path(config, is_root=False, environ={"XDG_STATE_HOME": "/s"}) == "/s/collector"
    assert effective_archive_path(explicit, is_root=False, environ=environ) == "/srv/crash"
    assert effective_runtime_directory(config, is_root=True, environ={}) == "/run/collector"
    assert effective_runtime_directory(config, is_root=False, environ=environ) == "/run/user/1000/collector"
    assert effective_runtime_directory(config, is_root=True, environ={"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == "/run/a"
