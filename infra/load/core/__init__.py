"""What a load test decides and counts, without I/O, clock or chance."""
