"""Access to the kernel: its files and system calls, processes, file systems."""
