"""Decisions of the producer without I/O: lanes, batches, outcomes, line parsing, sessions."""
