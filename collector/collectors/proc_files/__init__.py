"""The whole machine as ``/proc`` and ``/sys`` show it."""
