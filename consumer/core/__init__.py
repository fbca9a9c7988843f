"""Decisions of the consumer without I/O: shard graph, leases, checkpoints, enrichment, object naming."""
