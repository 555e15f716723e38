"""The gate, a pure decision, and the sampler that feeds it."""
