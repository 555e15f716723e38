"""
What the daemon logs: for each event its MESSAGE_ID, its priorities and its sentence.

An event that is not here is logged all the same, by its level and its fields; a test holds code and table together.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Priority(enum.IntEnum):
    """How much an event matters. Source: syslog(3)."""

    CRIT = 2
    ERR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7

    @property
    def level(self) -> str:
        """The level in JSON lines, which is also the logger's method: there, a notice is `info`."""
        return LEVELS[self]


CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = Priority
LEVELS = {CRIT: "critical", ERR: "error", WARNING: "warning", NOTICE: "info", INFO: "info", DEBUG: "debug"}
BY_LEVEL = (CRIT, ERR, WARNING, INFO, DEBUG)
"""Of events that are not in the table."""


class LogKind(NamedTuple):
    """
    One kind of event.

    *message_id* is for ``journalctl MESSAGE_ID=``, and never changes. Of *priorities*, which all have other levels,
    the code chooses by the level. *sentence* is a format of the event's fields and of what `sentences` adds.
    """

    message_id: str
    priorities: tuple[Priority, ...]
    sentence: str


KINDS = {
    "daemon.started": LogKind(
        "bce53bf7057e40f886306b7e4ed1e192", (NOTICE,), "version {version} watches for crashes, with {config}"
    ),
    "daemon.stopping": LogKind("7cb64a31afaa4085845b705b2260891a", (NOTICE,), "stopping{under_way}"),
    "daemon.sealing": LogKind("a1270ae9eb4c4dcb8aba6e3990bef139", (WARNING,), "sealing at once{because}{under_way}"),
    "daemon.left": LogKind(
        "5554dd2e7af34077ba9a92f3baa53343", (WARNING,), "out of time for what is under way{under_way}{advice}"
    ),
    "daemon.stopped": LogKind("be4e62806d714faa9b7a83e52f95372c", (NOTICE,), "stopped"),
    "daemon.failed": LogKind("e20733e0c31f472c9aa5ad49688bffe4", (ERR, CRIT), "cannot run: {error}{advice}"),
    "drain.started": LogKind(
        "2994b3541f7e446885686de11413615e",
        (NOTICE,),
        "drained: what is under way or in the queue ({queued}) is still collected, later crashes are recorded and wait",
    ),
    "drain.ended": LogKind("84d20f64c92846dfabf614fa69072700", (NOTICE,), "the drain is over; in the queue: {queued}"),
    "marker.ruled": LogKind("389c5e6682a9428bb759b5e3e4c1f669", (INFO, WARNING), "{crash}; {fate}{because}"),
    "limit.reached": LogKind(
        "81663e0653774c27aeab4a3129a7028a", (WARNING,), "the limit {limit} was reached {times} (owner: {owner})"
    ),
    "evidence.read": LogKind(
        "f38e532859e946dc9521a6f2d9bc1a8d", (INFO,), "{short}: all light evidence is in memory after {duration}"
    ),
    "incident.opened": LogKind("69274596d837409488e216104db080ab", (INFO,), "{short}: opened at {path}{beyond}"),
    "incident.archived": LogKind(
        "b81c928f9a39463fa6cb3c3286fa541b", (NOTICE, WARNING), "{crash}; archived as {short}, {state}, {size}{because}"
    ),
    "incident.refused": LogKind(
        "835cd0f25d4d4474a6e4fc8b7394dc23", (ERR,), "{crash}; nothing was archived{because}{advice}"
    ),
    "incident.recovered": LogKind(
        "57dd6d8209bb4463af5674e8b79d7e84",
        (WARNING,),
        "{short}: sealed as {state}, with what a run that was cut off had collected",
    ),
    "incident.continued": LogKind(
        "7940981f47064970a8c47adf420fcc51", (NOTICE,), "{short}: goes on, after its run was cut off"
    ),
    "incident.pruned": LogKind("79bb94cac62f48e7a7e37bde6283e3f6", (INFO,), "{incident} was deleted{because}"),
    "incident.sealed": LogKind("00eca31fb5074eacb1b87183773cc592", (INFO,), "{short}: {digested}"),
    "incident.undigested": LogKind(
        "3ecafc6a56024b54a397786e73e48915", (WARNING,), "{short}: digests are missing{because}"
    ),
    "handover.done": LogKind(
        "aa7f507bed554b3abb23dea58e05e3a2", (INFO,), "{short}: taken over by the program of on_archived"
    ),
    "handover.failed": LogKind(
        "e5766b2aa869425f9d7c2cc43092525f",
        (WARNING,),
        "{short}: not taken over by the program of on_archived{because}{retried}",
    ),
    "step.started": LogKind("ad7df4a3b2194c51a98b8fb4ae735acd", (DEBUG,), "{short}: {step} begins"),
    "step.progressed": LogKind("a9482a07d1ec47e68206a003df0632ce", (DEBUG,), "{short}: {step}, {size} so far"),
    "step.waiting": LogKind("4c6f65508cc84faf9afbee9e68d85b5d", (NOTICE,), "{short}: {step} waits{because}"),
    "step.queued": LogKind("4a797def9b744e9293a4b5569b0efbc5", (INFO,), "{short}: {step} is queued{because}"),
    "step.finished": LogKind(
        "80532a1c07b34db9b6d86c8dac6faf2f", (INFO,), "{short}: {step} is {status}, {size}{because}"
    ),
    "step.incomplete": LogKind(
        "7cb532570f7e4823ab58d740a944bf4b", (WARNING,), "{short}: {step} is {status}, {size}{because}{advice}"
    ),
    "journal.failed": LogKind(
        "3030d90b7ff34fe19d3faaf8ea4c5198", (WARNING,), "{short}: how a step ended could not be written{because}"
    ),
    "markers.lost": LogKind("319556c888f34daf8692ebb17c78dc96", (WARNING,), "trigger {trigger} lost events {times}"),
    "cores.removed": LogKind(
        "63a0cf4717b14706a299981318c7475e",
        (INFO,),
        "trigger {trigger}: archived cores removed: {count}, {size}",
    ),
    "trigger.degraded": LogKind(
        "7099703301a842acb5ea4ca9099c8c8c", (WARNING, ERR), "trigger {trigger} is degraded{because}{advice}"
    ),
    "trigger.restored": LogKind("c0364b090d524a8fae9fca7bf47b857b", (NOTICE,), "trigger {trigger} is watched again"),
    "metrics.unwritten": LogKind("7e3192daedd444b9b030bd03a6ff12ef", (WARNING,), "{path} cannot be replaced{because}"),
    "metrics.written": LogKind("3fcf579a6f0947c7b818ed0a87d755c1", (INFO,), "{path} is replaced again"),
    "recorder.degraded": LogKind(
        "1b8fdff04e374fa184174e3e87d30a68", (WARNING,), "the flight recorder is degraded{because}{advice}"
    ),
    "pressure.degraded": LogKind(
        "22236a68d31442988eb83b9a3be268f2", (WARNING,), "the gate is degraded{because}{advice}"
    ),
    "members.unknown": LogKind("02aca4bd80094067aa57c1ac97c1cc1e", (WARNING,), "there is no group {group}{advice}"),
    "control.failed": LogKind(
        "4f62df9f1a334bba84106e1b86428b61", (ERR,), "the control socket cannot be made: {error}{advice}"
    ),
    "control.restored": LogKind(
        "16adbdd98f04433d93a3ef724c05f170", (WARNING,), "the control socket was made again in {directory}"
    ),
    "worker.missing": LogKind(
        "a80b04a60a2348d4b302bd4decb49241", (WARNING,), "workers are missing, and cannot be forked: {missing}, {error}"
    ),
    "config.loaded": LogKind("108ff784aa984b108e4b6bebf605a844", (NOTICE,), "the configuration {config} is in force"),
    "config.refused": LogKind(
        "ef25da6c2cbf48019be6df0bb4fea0c0",
        (ERR,),
        "the new configuration was refused, the old one stays in force: {problems}",
    ),
    "config.deferred": LogKind(
        "4126e3ca23de42eea6c3f3cdf93463b2",
        (WARNING,),
        "{key} will be {after_restart} after a restart; it is {in_force}",
    ),
    "config.warning": LogKind("59c3ecc739fb4eadbff9d438f5629204", (WARNING,), "{problem}"),
    "ledger.failed": LogKind("bd77300ba5a04596a0b03ad2f2323475", (ERR,), "the ledger cannot be used: {error}{advice}"),
    "ledger.recovered": LogKind("b960fcacb6804242ae068f5200b8d137", (NOTICE,), "the ledger is used again"),
    "archive.failed": LogKind(
        "f625e1c353b54342a8dde6a5e2aadf55", (ERR,), "the archive cannot be tended: {error}{advice}"
    ),
    "log.dropped": LogKind(
        "6e4df58dfb0a4a639b2e0029ec229b84",
        (WARNING,),
        "lines missing here because the journal did not take them: {count}",
    ),
}


def priority_of(event: str, level: str) -> Priority:
    """Return the priority of an event that is logged at *level*."""
    kind = KINDS.get(event)
    known = kind.priorities if kind is not None else ()
    return next((priority for priority in (*known, *BY_LEVEL) if priority.level == level), INFO)
