"""The copy engine: plan, source, sink, pace."""
