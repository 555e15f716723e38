"""Where things go when the file does not say, for root and for others."""

from __future__ import annotations

import os.path
from collections.abc import Mapping

from collector.config.spec import ARCHIVE_PATH, RUNTIME_DIRECTORY, Config


def effective_archive_path(config: Config, *, is_root: bool, environ: Mapping[str, str]) -> str:
    """Return the archive's directory: without root, the default is below ``$XDG_STATE_HOME``."""
    if is_root or config.archive.path != ARCHIVE_PATH:
        return config.archive.path
    return os.path.join(_base(environ, "XDG_STATE_HOME", ".local/state"), "collector")


def effective_runtime_directory(config: Config, *, is_root: bool, environ: Mapping[str, str]) -> str:
    """
    Return the directory of sockets and locks.

    The default is what systemd created for the unit (``$RUNTIME_DIRECTORY``, systemd.exec(5)); without
    root it is below ``$XDG_RUNTIME_DIR``, or in the state directory if that is not set.
    """
    if config.runtime.directory != RUNTIME_DIRECTORY:
        return config.runtime.directory
    made_by_systemd = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if made_by_systemd:
        return made_by_systemd
    if is_root:
        return RUNTIME_DIRECTORY
    if environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        return os.path.join(environ["XDG_RUNTIME_DIR"], "collector")
    return os.path.join(_base(environ, "XDG_STATE_HOME", ".local/state"), "collector", "run")


def _base(environ: Mapping[str, str], variable: str, below_home: str) -> str:
    """Return a base directory; relative ones are ignored, as the XDG specification asks."""
    given = environ.get(variable, "")
    return given if given.startswith("/") else os.path.join(environ.get("HOME") or "/", below_home)
