"""Hides values whose names look secret, in environments and command lines."""

from __future__ import annotations

import re

import msgspec

DEFAULT_KEYS = (
    "*pass*", "*secret*", "*token*", "*key*", "*credential*", "*auth*", "*cookie*", "*private*", "*dsn*", "*connection*string*",
)  # fmt: skip
MASK = b"[redacted]"


class Redaction(msgspec.Struct, frozen=True, kw_only=True):
    """
    What to hide.

    *keys* are globs, compared without case with the name before ``=`` (environment) or with a
    long option's name (command line).
    """

    enabled: bool = True
    keys: tuple[str, ...] = DEFAULT_KEYS

    def pattern(self) -> re.Pattern[bytes]:
        """Return one compiled pattern that matches a secret-looking name."""
        parts = [re.escape(key.encode()).replace(rb"\*", rb"[^=\0]*").replace(rb"\?", rb"[^=\0]") for key in self.keys]
        return re.compile(rb"(?:" + rb"|".join(parts) + rb")\Z" if parts else rb"(?!)", re.IGNORECASE)
