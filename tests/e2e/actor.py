"""
A process under any name, with any arguments: ``actor.py COMM [ARGUMENT...]``.

It says ``ready``, and dies of SIGSEGV when a line or the end of standard input arrives.
"""

import os
import signal
import sys

with open("/proc/self/comm", "wb") as comm:
    comm.write(os.fsencode(sys.argv[1]))
print("ready", flush=True)
sys.stdin.buffer.readline()
os.kill(os.getpid(), signal.SIGSEGV)
