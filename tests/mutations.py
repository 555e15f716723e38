"""
Changes one comparison, operator, condition or whole number at a time, and counts the changes that no test notices.

    .venv/bin/python tests/mutations.py                                    # every module in `MODULES`
    .venv/bin/python tests/mutations.py gate elfcore                       # some of them
    .venv/bin/python tests/mutations.py collector.model.text TEST_FILE...  # another one

Only bodies of functions are changed: neither decorators, defaults and annotations, nor the limits at the top of a
module. The tests are collected once; for each mutant a fork gives the function its changed code object and runs them
until one fails. Nothing is written to the source. Mutants that behave as the original are listed with the reason in
`mutations_equivalent.tsv`: module, function, original and changed statement, reason. The exit status is 1 if more than
10 % of the others survive in any module.
"""

from __future__ import annotations

import importlib
import inspect
import os
import resource
import sys
from functools import reduce
from pathlib import Path
from types import FunctionType

import hypothesis
import pytest
from mutants import Mutant, mutants

TESTS = Path(__file__).parent
ADMISSION = ("unit/model/test_admission.py", "unit/model/test_admission_shares.py")
REDACTION = "unit/model/test_model_redaction.py"
MODULES = {
    "gate": ("collector.pressure.gate", "unit/pressure"),
    "pressure": ("collector.model.pressure", "unit/pressure"),
    "distress": ("collector.pressure.distress", "unit/pressure"),
    "identity": (
        "collector.model.identity",
        "unit/model/test_identity.py",
        "unit/triggers/test_triggers_identities.py",
    ),
    "shares": ("collector.model.shares", "unit/model/test_model_shares.py"),
    "owners": ("collector.model.owners", "unit/model/test_model_shares.py", "unit/model/test_model_allotment.py"),
    "admission": ("collector.model.admission", *ADMISSION),
    "own_processes": ("collector.model.own_processes", *ADMISSION),
    "budgets": ("collector.model.budgets", "unit/model/test_model_budgets.py", *ADMISSION),
    "queue": ("collector.model.queue", "unit/model/test_model_queue.py", *ADMISSION),
    "recent": ("collector.model.recent", "unit/model/test_model_recent.py", *ADMISSION),
    "case": ("collector.model.case", "unit/model/test_model_case.py", *ADMISSION),
    "allotment": ("collector.model.allotment", "unit/model/test_model_allotment.py"),
    "retention": ("collector.archive.retention", "unit/archive/test_archive_retention.py"),
    "prune": ("collector.archive.prune", "unit/archive/test_archive_prune.py"),
    "clock": ("collector.archive.clock", "unit/archive/test_archive_prune.py", "unit/archive/test_archive_clock.py"),
    "redaction": ("collector.model.redaction", REDACTION),
    "redaction_names": ("collector.model.redaction_names", REDACTION),
    "redaction_forms": ("collector.model.redaction_forms", REDACTION),
    "redaction_pairs": ("collector.model.redaction_pairs", REDACTION),
    "redaction_options": ("collector.model.redaction_options", REDACTION),
    "redaction_arguments": ("collector.model.redaction_arguments", REDACTION),
    "elfcore": (
        "collector.host.elfcore",
        "unit/host/test_host_elfcore.py",
        "unit/collectors/test_collectors_core_notes.py",
        "property/test_host_elfcore_hostile.py",
    ),
}
"""For each name a module, and its tests, the quickest first."""

EQUIVALENT = TESTS / "mutations_equivalent.tsv"
MOST_SURVIVING = 0.10
JOBS = 2
# A mutant that takes this many times the CPU time of the original is taken to be in an endless loop.
PATIENCE = 10
LIMIT_BYTES = 4 << 30


class Runner:
    """A pytest plugin that runs the collected tests once for each mutant, each time in a fork."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.survivors: list[Mutant] = []
        self.count = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one for all forks
        module = importlib.import_module(self.module)
        source = inspect.getsource(module)
        if os.waitpid(_start(session, resource.RLIM_INFINITY), 0)[1]:
            raise pytest.UsageError(f"the tests of {self.module} fail without any change")
        limit_s = 2 + PATIENCE * int(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime + 1)
        running: dict[int, Mutant] = {}
        for mutant in mutants(source, str(module.__file__)):
            self.count += 1
            if len(running) >= JOBS:
                self._finish(running)
            function = _function(module, mutant.name)
            original, function.__code__ = function.__code__, mutant.code
            running[_start(session, limit_s)] = mutant
            function.__code__ = original
        while running:
            self._finish(running)
        return True

    def _finish(self, running: dict[int, Mutant]) -> None:
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0:
            self.survivors.append(mutant)


def _function(module: object, name: str) -> FunctionType:
    """Return the function behind a name, however it is wrapped."""
    *owners, last = name.split(".")
    found = inspect.getattr_static(reduce(getattr, owners, module), last)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    return inspect.unwrap(found)


def _start(session: pytest.Session, limit_s: int) -> int:
    """Run the collected tests in a fork until one fails or they have used *limit_s* of CPU time; return its PID."""
    if pid := os.fork():
        return pid
    failed = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                break
        failed = int(session.testsfailed > 0)
    finally:
        os._exit(failed)


def measure(module: str, tests: list[str]) -> Runner:
    """Run the tests of a module for each of its mutants, in a process of its own for each module."""
    runner = Runner(module)
    options = ["-qq", "--no-header", "--capture=sys", "--no-summary", "-p", "no:cacheprovider", "-p", "no:warnings"]
    if pytest.main([*options, "-o", "addopts=", "-m", "not slow", *tests], plugins=[runner]) is not pytest.ExitCode.OK:
        raise SystemExit(f"the tests of {module} cannot be run")
    return runner


def main(arguments: list[str]) -> int:
    os.nice(15)
    hypothesis.settings.register_profile(
        "mutations", derandomize=True, database=None, deadline=None, phases=(hypothesis.Phase.generate,)
    )
    hypothesis.settings.load_profile("mutations")
    if arguments and arguments[0] not in MODULES:
        return report(measure(arguments[0], arguments[1:]))
    too_many = 0
    for name in arguments or MODULES:
        if not (pid := os.fork()):
            module, *tests = MODULES[name]
            os._exit(report(measure(module, [str(TESTS / test) for test in tests])))
        too_many |= os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return too_many


def report(runner: Runner) -> int:
    """Print the survivors that are not listed as equivalent and their rate; return 1 if they are too many."""
    rows = [line.split("\t") for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()]
    equivalent = {tuple(row[1:4]) for row in rows if row[0] == runner.module}
    keys = [(mutant.name, mutant.before, mutant.after) for mutant in runner.survivors]
    for key in sorted(equivalent - set(keys)):
        print(f"{EQUIVALENT.name} lists what does not survive: {key}")
    surviving = [mutant for key, mutant in zip(keys, runner.survivors, strict=True) if key not in equivalent]
    for mutant in sorted(surviving, key=lambda one: one.line):
        print(f"{runner.module}:{mutant.line} {mutant.name}\n    - {mutant.before}\n    + {mutant.after}")
    count = runner.count - len(runner.survivors) + len(surviving)
    rate = len(surviving) / max(1, count)
    print(f"{runner.module}: {len(surviving)} of {count} survive ({rate:.0%}); {runner.count - count} are equivalent")
    sys.stdout.flush()
    return int(rate > MOST_SURVIVING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
