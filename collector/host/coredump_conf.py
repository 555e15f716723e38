"""What systemd-coredump does with a core. Source: coredump.conf(5); systemd.unit(5) for the order of the files."""

from __future__ import annotations

from collector.host.conf_directories import ROOTS, conf_files, lines_of, names_in
from collector.host.files import Host

EXTERNAL = "external"


def storage(host: Host) -> str:
    """Return ``Storage=``: ``external`` (files, the default), ``journal`` or ``none``."""
    found, file, section = EXTERNAL, "", ""
    for path, line in lines_of(host, _files(host)):
        if path != file:
            file, section = path, ""
        key, _, value = line.partition("=")
        if line.startswith("["):
            section = line
        elif section == "[Coredump]" and key.strip() == "Storage":
            found = value.strip() or EXTERNAL
    return found


def _files(host: Host) -> list[str]:
    """Return the first main file, then the drop-ins."""
    mains = (f"{root}/systemd" for root in ROOTS)
    main = [f"{directory}/coredump.conf" for directory in mains if "coredump.conf" in names_in(host, directory)]
    return main[:1] + conf_files(host, "systemd/coredump.conf.d")
