"""Looking at a running consumer group, and steering it: status, seek, pause, dead letters, KCL tables."""
