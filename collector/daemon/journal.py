"""
Logging: JSON lines on standard error, or text for people where that is a terminal.

Standard error is the journal under systemd; nothing here ever blocks on a file of our own.
"""

from __future__ import annotations

import sys

import structlog


def configure(*, verbose: bool = False) -> structlog.stdlib.BoundLogger:
    """Set logging up for this process; return the root logger."""
    terminal = sys.stderr.isatty()
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 20),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
