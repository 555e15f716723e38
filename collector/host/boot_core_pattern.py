"""What ``core_pattern`` will be after the next boot. Source: sysctl.d(5); systemd-sysctl(8)."""

from __future__ import annotations

from collector.host.conf_directories import conf_files, lines_of
from collector.host.files import Host

KEYS = frozenset({"kernel.core_pattern", "kernel/core_pattern"})
SYSCTL_CONF = "/etc/sysctl.conf"
"""Read last: by procps, or by systemd through a symlink in sysctl.d."""


def core_pattern_at_boot(host: Host) -> tuple[str, str] | None:
    """Return the pattern that is set at boot, and the file that says so; ``None`` if none does."""
    found = None
    for path, line in lines_of(host, (*conf_files(host, "sysctl.d"), SYSCTL_CONF)):
        key, separator, value = line.lstrip("-").partition("=")
        if separator and key.strip() in KEYS:
            found = value.strip(), path
    return found
