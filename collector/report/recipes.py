"""Questions that the files of an incident answer, each with the command for it: nothing but jq and the usual tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Recipe(NamedTuple):
    """
    A *question*, and the *command* that answers it.

    *file* is the file's name, of a step of *collector*; if that is empty, of the incident. ``FILE`` stands for it.
    """

    question: str
    collector: str
    file: str
    command: str


NOT_OK = 'select(.status != "ok") | [.id, .status, .reason] | @tsv'
BUSIEST = """(head -1 FILE; tail -n +2 FILE | sort -t "$(printf '\\t')" -k9,9nr | head) | cut -f1,5,9,10"""
AVAILABLE = "[inputs | arrays | [.[0], .[6]]][-30:][] | @tsv"
"""Of ``recorder.jsonl``: seconds since boot, and bytes available; docs/recorder.md has all columns."""

RECIPES = (
    Recipe("Which steps are not complete, and why?", "", "manifest.json", f"jq -r '.steps[] | {NOT_OK}' FILE"),
    Recipe("Who noticed it?", "", "manifest.json", "jq -r '.markers[] | [.trigger, .at_s, .reason] | @tsv' FILE"),
    Recipe("What was it?", "core", "core.json", "jq '{diagnosis, signal, program, build_id, frames}' FILE"),
    Recipe("What did each thread do?", "core", "threads.jsonl", "jq -c '[.tid, (.frames // [])[0:3]]' FILE"),
    Recipe("Of which builds is it?", "core", "modules.jsonl", "jq -r '[.start, .build_id, .path] | @tsv' FILE"),
    Recipe("Which segments are here, and why? (their names: NAMES.tsv)", "shm", "segments.jsonl",
           "jq -r '[.size_bytes, .artifact // .not_taken, .name, .why] | @tsv' FILE"),
    Recipe("What else was in /dev/shm?", "shm", "inventory.jsonl", "jq -c . FILE | head"),
    Recipe("Which processes had most memory?", "process_table", "processes.tsv", BUSIEST),
    Recipe("What did the kernel say?", "dmesg", "dmesg.txt", "tail -50 FILE"),
    Recipe("What did the unit say?", "journal", "journal.txt", "tail -40 FILE"),
    Recipe("Which limit of the cgroup was met?", "cgroup", "cgroup.json", "jq '.findings, .nearest' FILE"),
    Recipe("How much memory was left?", "proc_files", "meminfo", "grep -E 'MemTotal|MemAvail|Shmem:|Dirty' FILE"),
    Recipe("And in the seconds before?", "recorder", "recorder.jsonl", f"jq -rn 'input | {AVAILABLE}' FILE"),
    Recipe("Which log is which?", "files", "files.jsonl", "jq -r '[.artifact, .path] | @tsv' FILE"),
)  # fmt: skip


def recipes(files: Iterable[tuple[str, str]]) -> list[str]:
    """Return, for *files* (the collector and the name of each), each question and below it the command."""
    there: dict[tuple[str, str], str] = {}
    for collector, name in files:
        there.setdefault((collector, name.rpartition("/")[2]), name)
    lines: list[str] = []
    for recipe in RECIPES:
        if name := there.get((recipe.collector, recipe.file), ""):
            lines += [recipe.question, f"    {recipe.command.replace('FILE', name)}"]
    return lines
