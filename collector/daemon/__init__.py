"""The supervisor: one loop, sd_notify, the control socket."""
