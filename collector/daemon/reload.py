"""The configuration in force, and reloading it."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace

from collector.config.drop_ins import SYSTEM_PATH, drop_ins
from collector.config.dump import written
from collector.config.load import find
from collector.daemon.journal import get_logger
from collector.daemon.messages import Reply
from collector.model.errors import ConfigError
from collector.pipeline.generation import Generation, generate
from collector.triggers.registry import TRIGGERS

RELOADED = frozenset({"incident_timeout", "reload_on_change", "stop_grace"})
"""Keys of `runtime` that take effect at a reload; the daemon uses all others once, when it starts."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and mtime of each file that a load would read."""

log = get_logger()


def used_at_start(generation: Generation) -> dict[str, object]:
    """
    Return the values that a running daemon cannot change, as the file would write them, by the key's path.

    Workers are forked with theirs, and with the recorder's memory; locks and sockets are in the runtime directory, and
    the archive holds the ledger that refers to its incidents.
    """
    config = generation.loaded.config
    runtime, recorder = (written(one, type(one)) for one in (config.runtime, config.recorder))
    values = {f"runtime.{key}": value for key, value in runtime.items() if key not in RELOADED}
    effective = {
        "archive.path": generation.settings.archive,
        "archive.group": config.archive.group,
        "runtime.directory": generation.runtime_directory,
    }
    return values | effective | {f"recorder.{key}": value for key, value in recorder.items()}


class Configuration:
    """
    The configuration in force.

    Args:
        path: Of the file; ``None``: the system's, or the packaged one while there is none.
        archive: Overrides ``archive.path``.

    Raises:
        ConfigError: If the file is invalid.
    """

    def __init__(self, path: str | None, archive: str | None) -> None:
        self._path, self._archive = path, archive
        self._files = ChangedFiles(find(path))
        self.generation = self._start = self._load()
        self.generations, self.loaded_s = 1, time.time()
        """How many were in force so far, and since when this one is, since the epoch."""
        self.problem: str | None = None
        """Why the last reload was refused."""
        self.after_restart: tuple[str, ...] = ()
        """Keys whose values in the file take effect when the daemon is restarted."""

    @property
    def is_outdated(self) -> bool:
        """Whether `reload_on_change` is set and the files have changed since they were loaded."""
        return self.generation.loaded.config.runtime.reload_on_change and self._files.have_changed()

    def reload(self) -> bool:
        """Load the file again and return whether it is in force now; a bad one changes nothing and is logged."""
        self._files.loading()
        try:
            new = self._load()
        except ConfigError as exc:
            self.problem = str(exc)
            problems = [str(problem) for problem in exc.diagnostics]
            log.error("config.refused", problems=problems)  # noqa: TRY400 - a mistake in a file has no traceback
            return False
        self.problem = None
        old, wanted = used_at_start(self._start), used_at_start(new)
        self.after_restart = tuple(key for key in wanted if wanted[key] != old[key])
        settings = replace(new.settings, archive=self._start.settings.archive)
        self.generation = replace(
            new,
            settings=settings,
            runtime_directory=self._start.runtime_directory,
            recorder=self._start.recorder,
        )
        self.generations, self.loaded_s = self.generations + 1, time.time()
        log.info("config.loaded", config=new.loaded.source, hash=new.loaded.hash)
        for key in self.after_restart:
            log.warning("config.deferred", key=key, in_force=old[key], after_restart=wanted[key])
        self.warn()
        return True

    def reply(self) -> Reply:
        """Return the answer to a request for a reload."""
        if self.problem is not None:
            return Reply(exit_code=ConfigError.exit_code, message=self.problem)
        return Reply(message=f"after a restart: {', '.join(self.after_restart)}" if self.after_restart else "")

    def warn(self) -> None:
        for problem in self.generation.warnings:
            log.warning("config.warning", problem=str(problem))

    def _load(self) -> Generation:
        return generate(find(self._path), TRIGGERS, archive=self._archive)


class ChangedFiles:
    """
    Notices that the configuration's files have changed, without reading them.

    Args:
        path: Of the file; ``None``: the packaged default and its drop-ins.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.loading()

    def loading(self) -> None:
        """Remember the files as they are; call it before reading them, so that no change is missed in between."""
        self._loaded = self._seen = self._stamp()

    def have_changed(self) -> bool:
        """Return whether the files differ from those loaded, but not from the last call: an editor has finished."""
        now, before = self._stamp(), self._seen
        self._seen = now
        return now == before and now != self._loaded

    def _stamp(self) -> Stamp:
        names = [self._path] if self._path else []
        with contextlib.suppress(ConfigError):
            names += drop_ins(self._path or SYSTEM_PATH)
        entries = []
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(name)
                entries.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(entries)
