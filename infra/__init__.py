"""Everything around the pipeline: local cloud, provisioning, demo, audit, command line."""
