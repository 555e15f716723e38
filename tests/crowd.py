"""Many idle processes that cost little: a C program's forks, which it ends and waits for when its input ends."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

FORKER = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char end;
    pid_t parent = getpid();
    setpgid(0, 0);
    for (int i = atoi(argv[1]); i; i--) {
        pid_t pid = fork();
        if (pid < 0) return 1;
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() == parent) pause();
            _exit(0);
        }
    }
    write(1, "ok\n", 3);
    read(0, &end, 1);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(0) > 0);
    return 0;
}
"""


@contextlib.contextmanager
def crowd(directory: Path, count: int) -> Iterator[set[int]]:
    """Keep *count* processes named ``crowd``; yield their PIDs."""
    program = directory / "crowd"
    if not program.exists():
        (directory / "crowd.c").write_text(FORKER)
        subprocess.run(["gcc", "-O1", "-o", str(program), str(directory / "crowd.c")], check=True)
    with subprocess.Popen([str(program), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ok\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
        yield {int(pid) for pid in children.split()}
