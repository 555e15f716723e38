"""Runs in the virtual machine: executes what the test asks for, one command at a time, and says how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def main(port: str) -> None:
    """Answer each line, a JSON list of arguments, with a line: exit status and output."""
    with open(port, "r+b", buffering=0) as questions, open(os.dup(questions.fileno()), "wb") as answers:
        answers.write(b'"ready"\n')
        answers.flush()
        pending = b""
        while piece := questions.read(65536):
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                done = subprocess.run(
                    json.loads(line),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                answers.write(json.dumps([done.returncode, done.stdout.decode(errors="replace")]).encode() + b"\n")
                answers.flush()


main(sys.argv[1])
