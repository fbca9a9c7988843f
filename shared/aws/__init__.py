"""The AWS edge: one adapter per service behind a port of `shared.ports`."""
