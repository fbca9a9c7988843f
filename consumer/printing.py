"""What `consumer_from_cli` does: follow a stream and write each record to stdout."""

from __future__ import annotations

import os
import re
import secrets
from random import Random

from consumer.assembly import initial_checkpoint
from consumer.reader import StreamFollower, render_json, render_text
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.lifecycle import ExitCode, run_work, stop_on_signals
from shared.records import UserRecord
from shared.settings import STREAM_NAME_PATTERN
from shared.telemetry import StructlogTelemetry, configure_logging
from shared.terminal import flush_data, write_data


def print_stream(stream: str, *, start: str, as_json: bool, limit: int | None) -> int:
    """Print records until SIGINT, SIGTERM, the limit, or until the reader of our stdout went away."""
    if not re.fullmatch(STREAM_NAME_PATTERN, stream):
        raise ConfigurationError(
            f"`{stream[:128]}` is no stream name", hint="1 to 128 letters, digits, dots, dashes and underscores"
        )
    initial_checkpoint(start, option="--from")
    configure_logging("warning")
    try:
        run_work(_follow(stream, start=start, as_json=as_json, limit=limit))
    except BrokenPipeError:
        # `| head` is how pipes end. The option parser would make exit code 1 of it, and Python would complain once
        # more at its own exit about what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(ExitCode.DONE)


async def _follow(stream: str, *, start: str, as_json: bool, limit: int | None) -> None:
    render = render_json if as_json else render_text
    initial, timestamp = initial_checkpoint(start, option="--from")

    def take(shard_id: str, record: UserRecord) -> None:
        write_data(render(shard_id, record))

    async with stop_on_signals() as stop, open_aws() as aws:
        follower = StreamFollower(
            stream,
            kinesis=await aws.kinesis(),
            clock=SystemClock(),
            random=Random(secrets.randbits(64)),  # noqa: S311 - for jitter, not for secrets
            telemetry=StructlogTelemetry(),
            initial=initial,
            timestamp=timestamp,
            take=take,
            flush=flush_data,
            limit=limit,
        )
        await follower.follow(stop.requested)
