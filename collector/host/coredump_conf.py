"""What systemd-coredump does with a core. Source: coredump.conf(5); systemd.unit(5) for the order of the files."""

from __future__ import annotations

from collector.host.files import Host

DIRECTORIES = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
EXTERNAL = "external"
FILE_BYTES = 65_536


def storage(host: Host) -> str:
    """Return ``Storage=``: ``external`` (files, the default), ``journal`` or ``none``."""
    found = EXTERNAL
    for path in _files(host):
        section = ""
        for line in host.read(path, limit=FILE_BYTES).decode(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if line.startswith("["):
                section = line.strip()
            elif section == "[Coredump]" and key.strip() == "Storage":
                found = value.strip() or EXTERNAL
    return found


def _files(host: Host) -> list[str]:
    """Return the first main file, then the drop-ins by name, of which an earlier directory hides namesakes."""
    main: list[str] = []
    drop_ins: dict[str, str] = {}
    for directory in DIRECTORIES:
        if not main and "coredump.conf" in _names(host, directory):
            main.append(f"{directory}/coredump.conf")
        for name in _names(host, f"{directory}/coredump.conf.d"):
            if name.endswith(".conf"):
                drop_ins.setdefault(name, f"{directory}/coredump.conf.d/{name}")
    return main + [path for _, path in sorted(drop_ins.items())]


def _names(host: Host, directory: str) -> list[str]:
    try:
        return host.listdir(directory)
    except OSError:
        return []
