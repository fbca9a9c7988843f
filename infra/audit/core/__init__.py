"""The pure part of the audit, shared by the simulation, the process tests, the load test and `headrace audit`."""
