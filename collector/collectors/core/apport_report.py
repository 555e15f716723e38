"""What an Apport report adds to the summary of the core within it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.collectors.core.notes import CoreSignal
from collector.host.apport import CrashReport
from collector.model.redaction import Redaction
from collector.model.signals import signal_name
from collector.model.text import escape, escape_name, parse_number

if TYPE_CHECKING:
    from collector.collectors.core.summary import CoreSummary

# Of the others, some hold secrets (ProcEnviron), and all are in the report that is kept.
ATTRIBUTES = ("ProblemType", "Date", "ExecutablePath", "InterpreterPath", "Package", "DistroRelease", "Uname",
              "ProcCwd", "CrashCounter")  # fmt: skip
MAX_ARGUMENTS_BYTES = 4096
MAX_ATTRIBUTE_BYTES = 4096


def add_report(summary: CoreSummary, report: CrashReport, redaction: Redaction) -> None:
    """
    Add what the report says to what the notes of its core do.

    The notes come first, except for what the report has more of: they hold 80 bytes of the arguments, and a list of
    mapped files only up to 4 MiB.
    """
    values = ((key, report.value(key.encode())) for key in ATTRIBUTES)
    summary.attributes = {key: escape(value[:MAX_ATTRIBUTE_BYTES]) for key, value in values if value}
    if arguments := report.arguments:
        summary.arguments = escape(b" ".join(redaction.arguments(arguments))[:MAX_ARGUMENTS_BYTES])
    summary.mapped_files = sum(1 for _ in report.mapped_files()) or summary.mapped_files
    if summary.pid is None:
        status = report.status
        summary.pid, summary.uid = report.pid, report.uid
        summary.ppid = parse_number(status.get("PPid"))
        summary.gid = parse_number(status.get("Gid", "").partition("\t")[0])
        summary.command = escape_name(report.comm or "")
        summary.threads = summary.threads or parse_number(status.get("Threads")) or 0
    number = report.number(b"Signal")
    if summary.signal is None and number is not None:
        summary.signal = CoreSignal(number=number, name=signal_name(number))
