"""The embedded local cloud: Kinesis of our own, the other services from moto, behind one endpoint."""
