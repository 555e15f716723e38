"""The trigger `kernel_cores`: the kernel hands each crash over, and holds the process meanwhile."""
