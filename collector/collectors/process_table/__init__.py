"""Every process of the machine, and who waits uninterruptibly."""
