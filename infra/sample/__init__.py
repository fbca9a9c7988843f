"""The sample web-server log that the demo reads: invented, seeded, shipped with the package."""
