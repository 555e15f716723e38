"""Attacks by text: names that forge records or control a terminal, and incidents written by others."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, CORES, MEMORY, NOTIFY, TABLE, config_of
from harness import Daemon, Victim, contents, segment, wait_for
from machine import PROC_CONNECTOR, core_pattern

pytestmark = pytest.mark.root
NOBODY = 65534
COMM = b"a) R 1\nUid: 0"  # imitates lines of /proc/PID/stat and /proc/PID/status
ARGUMENTS = (
    b"\x1b]0;owned\x07\x1b[2J",
    b"\xff\xfe\xc3(",
    "\u202egnp.exe".encode(),
    b"a\nb\tc\rd",
    b"<script>'; rm -rf $(id)`",
)
ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e\u009b"
UNPRINTABLE = re.compile(r"[^\n\x20-\x7e\xa0-\u2029\u202f-\uffff]")
OWN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def said(daemon: Daemon, *verb: str) -> str:
    """Return everything that a command prints."""
    done = daemon.run(*verb, encoding="utf-8", errors="surrogateescape")
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.needs(PROC_CONNECTOR)
def test_deceptive_names_are_escaped_everywhere(daemon_factory: Callable[..., Daemon], actor: Path) -> None:
    """In comm, arguments, core, segment and notification: no forged lines, terminal escapes or paths; valid JSON."""
    exits = '{id: exits, type: process_exits, rules: [{comm: ["a) R 1*"]}], pipeline: crash}'
    steps = (
        TABLE,
        '{id: details, collector: process, with: {match: ["a) R 1*"]}}',
        CORE,
        '{id: segments, collector: shm, with: {segments: ["named-*"]}}',
    )
    daemon = daemon_factory(config_of(*steps, triggers=(CORES, NOTIFY, exits)))
    arguments = (COMM, *ARGUMENTS)
    name = os.fsdecode(b"named-\x1b[2J\n\xff)")
    with segment(name, 4096, {0: b"x"}), core_pattern(f"{daemon.cores}/core.%e.%p"):
        living, crashing = Victim(actor, *arguments, user=NOBODY), Victim(actor, *arguments)
        try:
            crashing.die()
            daemon.wait_for_incidents(1)
            facts = f"COMM={ESCAPE}", f"UNIT={ESCAPE}.service", f"REASON={ESCAPE}", "EXE=/bin/\udcff"
            hostile = (fact.encode(errors="surrogateescape") for fact in facts)
            assert daemon.run("notify", *hostile).returncode == 0
            daemon.wait_for_incidents(2)
        finally:
            living.process.kill()
    wait_for(lambda: daemon.log.read_text().count("incident.archived") == 2, "log lines")
    found = contents(daemon.archive)
    for path, data in found.items():
        assert OWN_NAME.fullmatch(path), path
        if path.endswith((".json", ".jsonl")):
            [json.loads(line) for line in ([data] if path.endswith(".json") else data.splitlines())]
    first, second = sorted(path for path in found if path.endswith("manifest.json"))
    assert json.loads(found[first])["markers"][0]["comm"] == r"a) R 1\x0aUid: 0"
    table = found[first.replace("manifest.json", "processes/processes.tsv")].decode().splitlines()
    columns = table[0].split("\t")
    assert {line.count("\t") for line in table} == {len(columns) - 1}
    row = next(line.split("\t") for line in table if line.startswith(f"{living.process.pid}\t"))
    told = dict(zip(columns, row, strict=True))
    assert (told["uid"], told["ppid"], told["comm"]) == (str(NOBODY), str(os.getpid()), r"a) R 1\x0aUid: 0")
    for event in daemon.log.read_text("utf-8").splitlines():
        assert not UNPRINTABLE.search(event), event
        json.loads(event)
    ids = [json.loads(found[path])["id"] for path in (first, second)]
    for verb in (
        ["list"],
        ["show", ids[0]],
        ["show", ids[1]],
        ["status"],
        ["run", "--now", "--pid", str(os.getpid())],
    ):
        assert not UNPRINTABLE.search(text := said(daemon, *verb)), (verb, text)


def hostile(good: dict[str, Any], how: str) -> dict[str, Any]:
    """Return a manifest as an attacker might write it."""
    bad = json.loads(json.dumps(good))
    artifact = bad["steps"][0]["artifacts"][0]
    match how:
        case "parent":
            artifact["path"] = "../../outside"
        case "absolute":
            artifact["path"] = "/etc/shadow"
        case "inner parent":
            artifact["path"] = "memory/../../../outside"
        case "core outside":
            bad["steps"][0]["collector"] = "core"
            artifact["path"] = "../../core.json"
        case "escapes":
            for key in ("id", "pipeline", "host", "kernel", "boot_id", "collector_version", "planned"):
                bad[key] = [ESCAPE] if key == "planned" else ESCAPE
            for key in ("trigger", "reason", "comm", "exe", "unit"):
                bad["markers"][0][key] = ESCAPE
            for key in ("id", "collector", "reason", "hint"):
                bad["steps"][0][key] = ESCAPE
            bad["steps"][0]["verdict"]["objections"] = [{"term": "floor", "said": ESCAPE}]
            artifact["source"] = artifact["truncated_reason"] = ESCAPE
        case "escaped kind":
            bad["state"] = ESCAPE
        case "escaped path":
            artifact["path"] = f"memory/{ESCAPE}"
        case "no markers":
            bad["markers"] = []
        case "end of time":
            bad["started_s"] = bad["ended_s"] = 1e300
        case "no such digest":
            artifact["digest"] = f"{ESCAPE}:00"
        case "symlink":
            artifact["path"] = "memory/link"
        case "fifo":
            artifact["path"] = "memory/fifo"
        case "negative":
            artifact["size_bytes"] = artifact["data_bytes"] = -(1 << 62)
    return bad


MANIFESTS: dict[str, Callable[[Path], object]] = {
    "manifest that is a symlink": lambda path: path.symlink_to("/etc/shadow"),
    "manifest that is a FIFO": os.mkfifo,
    "manifest that is not text": lambda path: path.write_bytes(b"\x80"),
}
HOW = (
    "parent", "absolute", "inner parent", "core outside", "escapes", "escaped kind", "escaped path", "no markers",
    "end of time", "no such digest", "symlink", "fifo", "negative",
)  # fmt: skip


def test_incidents_written_by_others_are_not_trusted(daemon_factory: Callable[..., Daemon]) -> None:
    """
    Paths out of the incident, planted files, escapes, absurd numbers: reported or refused, never followed.

    What lies outside is as the manifest says, so that nothing but the path can be what is wrong with it.
    """
    daemon = daemon_factory(config_of(MEMORY, triggers=()), start=False)
    assert daemon.run("run", "--now").returncode == 0
    (directory,) = daemon.archive.glob("*Z-??????")
    good = json.loads((directory / "manifest.json").read_text())
    first = good["steps"][0]["artifacts"][0]["path"]
    (daemon.directory / "outside").write_bytes((directory / first).read_bytes())
    outside = {"path": "/core", "size_bytes": 1, "command": "outside", "arguments": "outside"}
    (daemon.directory / "core.json").write_text(json.dumps(outside), encoding="utf-8")
    (directory / "memory/link").symlink_to("/etc/shadow")
    os.mkfifo(directory / "memory/fifo")
    ids = {}
    for number, how in enumerate((*HOW, *MANIFESTS)):
        ids[how] = f"{directory.name[:-6]}{number:06x}"
        copied = directory.with_name(ids[how])
        subprocess.run(["cp", "-a", str(directory), str(copied)], check=True)
        manifest = copied / "manifest.json"
        if how in HOW:
            manifest.write_text(json.dumps(hostile(good, how)))
        else:
            manifest.unlink()
            MANIFESTS[how](manifest)
    (directory.with_name(f"{directory.name[:-6]}ffffff")).symlink_to("/etc")
    shown = (
        "escapes",
        "end of time",
        "parent",
        "core outside",
        "escaped kind",
        "no markers",
        "manifest that is a symlink",
    )
    exports = (["export", ids[how], "-o", str(daemon.directory / f"{how}.tar.zst")] for how in shown)
    for verb in (["list"], ["list", "--json"], ["verify"], *(["show", ids[how]] for how in shown), *exports):
        text = said(daemon, *verb)
        assert not (re.search(r"[\0-\x09\x0b-\x1f]", text) if "--json" in verb else UNPRINTABLE.search(text)), (
            verb,
            text,
        )
        assert "root:" not in text, (verb, text)
        assert "outside:" not in text, (verb, text)
    verified = json.loads(daemon.run("verify", "--json").stdout)
    known = {artifact["path"] for step in good["steps"] for artifact in step["artifacts"]}
    for how, incident in ids.items():
        found = verified["incidents"].get(incident, [])
        assert {one["path"] for one in found if one["checked"] and not one["problem"]} <= known, how
        harmless = how in {"escapes", "end of time"}
        assert harmless == (incident in verified["incidents"] and not any(one["problem"] for one in found)), how
