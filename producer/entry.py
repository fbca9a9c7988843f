"""Where the `producer_from_cli` script begins: before anything is imported that takes its time."""

from __future__ import annotations

from typing import NoReturn

from shared.startup import end_at_once_on_interrupt, open_standard_streams


def main() -> NoReturn:
    """Run the command to its exit code."""
    end_at_once_on_interrupt()
    open_standard_streams()
    from producer.cli import app  # noqa: PLC0415 - see above
    from shared.terminal import run_command  # noqa: PLC0415

    run_command(app)
