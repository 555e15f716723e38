"""What the members of ``archive.group`` are told: the list of incidents, made by a worker and kept for a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from collector.daemon.control import Client
from collector.daemon.loop import Loop
from collector.daemon.messages import MESSAGE_LIMIT, Reply, Summaries, SummariesRequest
from collector.model.decode import MalformedError, decode
from collector.runner.pool import Pool
from collector.runner.protocol import Summarize
from collector.runner.summaries_job import ListOfIncidents
from collector.runner.worker_process import JobResult

KEPT_S = 5.0
"""For how long an answer is given again: however many ask, a worker reads the archive every 5 s at most."""

FAILED_S = 60.0
"""Likewise, that there is none: a worker that was killed over it must be forked again."""

JOB_S = 5.0
SPARE = 2
"""Idle workers without which nobody is answered: a crash needs one at once."""

WAITING = 8
BUSY = Reply(exit_code=75, message="the daemon is busy with a crash, or with others who ask", hint="try again")


@dataclass(slots=True)
class Members:
    """
    Answers members, while no incident is under way.

    Args:
        archive: Its path.
        busy: Returns whether an incident is under way.
    """

    loop: Loop
    pool: Pool
    archive: str
    busy: Callable[[], bool]
    _answer: Summaries | None = field(default=None, init=False)
    _made_s: float = field(default=float("-inf"), init=False)
    _asking: bool = field(default=False, init=False)
    _waiting: list[Client] = field(default_factory=list, init=False)

    def handle(self, client: Client, _: SummariesRequest) -> None:
        """Answer a member, at once or when the worker has."""
        if time.monotonic() - self._made_s < (FAILED_S if self._answer is None else KEPT_S):
            self._tell(client)
        elif len(self._waiting) >= WAITING or not (self._asking or self._may_ask()):
            client.end(BUSY)
        else:
            self._waiting.append(client)
            if not self._asking:
                self._asking = True
                job = Summarize(archive=self.archive)
                self.loop.spawn(self.pool.perform(job, deadline_s=time.monotonic() + JOB_S), self._made)

    def _may_ask(self) -> bool:
        return not self.busy() and self.pool.idle >= SPARE

    def _made(self, result: JobResult) -> None:
        self._asking, self._made_s = False, time.monotonic()
        self._answer = self._decoded(result)
        waiting, self._waiting = self._waiting, []
        for client in waiting:
            self._tell(client)

    def _decoded(self, result: JobResult) -> Summaries | None:
        if result.fd is None:
            return None
        try:
            known = decode(os.pread(result.fd, MESSAGE_LIMIT, 0), ListOfIncidents)
        except MalformedError:
            return None
        finally:
            os.close(result.fd)
        return Summaries(archive=self.archive, incidents=known.incidents, left_out=known.left_out)

    def _tell(self, client: Client) -> None:
        if self._answer is None or len(msgspec.json.encode(self._answer)) > MESSAGE_LIMIT:
            client.end(Reply(exit_code=73, message="the archive cannot be read", hint="root: collector list"))
            return
        client.send(self._answer)
        client.sock.close()
