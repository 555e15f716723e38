"""``collector crashes``: what the ledger accounts for."""

from __future__ import annotations

from collections.abc import Callable

import click
import msgspec

from collector.archive.ledger_reader import CountedRow, LedgerReader, LedgerRow
from collector.archive.read import ArchiveReader
from collector.cli.completion import Offer, complete_triggers
from collector.cli.options import ID_END, archive_options, archive_path, last_rows_options, taken
from collector.cli.table import TableColumn, echo_table, terminal_columns
from collector.cli.text import printable
from collector.cli.time_range import TimeRange, time_range, time_range_options
from collector.cli.wildcards import fits_any
from collector.model.case import Fate
from collector.model.errors import ArchiveError
from collector.model.owners import user_of
from collector.report.crashes import CrashLine, counted_lines, folded, line_of
from collector.report.text import local, utc

NO_MATCH = 1
TIMES = "\N{MULTIPLICATION SIGN}"
COLUMNS = (
    TableColumn("TIME"),
    TableColumn("PROCESS", elastic=True),
    TableColumn("SIG"),
    TableColumn("UNIT", elastic=True, rank=3),
    TableColumn("USER", elastic=True, rank=2),
    TableColumn("TRIGGER", elastic=True, rank=4),
    TableColumn("COUNT", right=True, rank=1),
    TableColumn("FATE"),
    TableColumn("INCIDENT/REASON", elastic=True),
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a marker has to be; an empty one may be anything."""

    comm: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    fate: tuple[str, ...] = ()
    trigger: tuple[str, ...] = ()
    owner: tuple[str, ...] = ()
    uid: tuple[int, ...] = ()

    @property
    def is_limited(self) -> bool:
        return self != Wanted()

    def holds(self, row: LedgerRow | CountedRow) -> bool:
        return (
            (not self.fate or row.fate in self.fate)
            and (not self.trigger or fits_any((row.trigger,), self.trigger))
            and (not self.owner or fits_any((row.owner, user_of(row.owner)), self.owner))
            and self._names(row)
        )

    def _names(self, row: LedgerRow | CountedRow) -> bool:
        if isinstance(row, CountedRow):
            return not (self.comm or self.unit or self.uid)
        said = row.said
        return (
            (not self.comm or fits_any((said.comm, said.exe and said.exe.rpartition("/")[2]), self.comm))
            and (not self.unit or fits_any((said.unit,), self.unit))
            and (not self.uid or said.uid in self.uid)
        )


def _many(
    name: str, metavar: str, text: str, complete: Offer | None = None
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(name, metavar=metavar, multiple=True, help=f"{text}; may be repeated.", shell_complete=complete)


@click.command("crashes")
@time_range_options
@_many("--unit", "UNIT", "Only of this unit; * and ? stand for any text")
@_many("--comm", "NAME", "Only of this command; likewise")
@click.option("--fate", type=click.Choice([str(fate) for fate in Fate]), multiple=True, help="Only with this fate.")
@_many("--trigger", "TRIGGER", "Only from this trigger; likewise", complete_triggers)
@_many("--owner", "OWNER", "Only of this owner, as `collector status` has it: root, `uid 1000`, `unit engine.service`")
@click.option("--uid", type=int, multiple=True, help="Only of processes of this user.")
@click.option("--all", "every", is_flag=True, help="One line for each marker, repeats and witnesses included.")
@last_rows_options
@archive_options
def crashes_command(
    *,
    since: str | None,
    until: str | None,
    every: bool,
    last: int | None,
    newest_first: bool,
    no_legend: bool,
    archive: str | None,
    config: str | None,
    as_json: bool,
    **wanted: tuple[str, ...],
) -> int:
    """
    List all crashes that were noticed, and their fates. Oldest first.

    Repeats of a crash with the same fate are one line, with their number and the time of the first. Those without a row
    in the ledger, beyond the share of their user, come first. Exit status 1 if nothing matches, 73 if part of the
    ledger cannot be read.
    """
    limits, asked = time_range(since, until), Wanted(**wanted)  # type: ignore[arg-type]
    with ArchiveReader(archive_path(config, archive)) as opened, LedgerReader(opened) as ledger:
        lines = _lines(ledger, limits, asked, every=every)
    shown = taken(lines, last, newest_first=newest_first)
    if as_json:
        click.echo(msgspec.json.encode({"crashes": list(map(_document, shown)), "problems": ledger.problems}))
    elif shown:
        on_terminal = terminal_columns() is not None
        echo_table(COLUMNS, [_row(line, cut=on_terminal) for line in shown], legend=not no_legend)
    for problem in ledger.problems if not as_json else ():
        click.echo(f"collector: {printable(problem)}", err=True)
    if ledger.problems:
        return ArchiveError.exit_code
    is_limited = asked.is_limited or limits.is_limited
    if not lines and not as_json:
        nothing = "no crash matches" if is_limited else "nothing was recorded yet"
        click.echo(nothing if ledger.exists else "there is no ledger: no daemon has run with this archive", err=True)
    return NO_MATCH if is_limited and not lines else 0


def _lines(ledger: LedgerReader, limits: TimeRange, asked: Wanted, *, every: bool) -> list[CrashLine]:
    counted = (row for row in ledger.counted(**limits._asdict()) if asked.holds(row))
    rows = (row for row in ledger.markers(**limits._asdict()) if asked.holds(row))
    return counted_lines(counted, fold=not every) + ([line_of(row) for row in rows] if every else folded(rows))


def _row(line: CrashLine, *, cut: bool) -> list[str]:
    pid = f"[{line.pid}]" if line.pid is not None else ""
    return [
        local(utc(line.first_s)),
        f"{line.comm or ''}{pid}",
        line.ended_by,
        line.unit or "",
        user_of(line.owner),
        ",".join(line.triggers),
        f"{TIMES}{line.count}" if line.count > 1 else "",
        line.fate,
        _result(line, cut=cut),
    ]


def _result(line: CrashLine, *, cut: bool) -> str:
    incident = line.incident or ""
    parts = [incident[-ID_END:] if cut else incident, line.reason]
    if line.count > 1 and line.last_s != line.first_s:
        parts.append(f"until {local(utc(line.last_s))}")
    if not line.has_row:
        parts.append("only counted: beyond the share of its user")
    return ", ".join(filter(None, parts))


def _document(line: CrashLine) -> dict[str, object]:
    known = msgspec.structs.asdict(line) | {"first": utc(line.first_s), "last": utc(line.last_s)}
    del known["first_s"], known["last_s"]
    return known
