"""Runs the local cloud in the foreground: `python -m infra.cloud`."""

from infra.cloud.command import main

main()
