"""`consumer_from_cli`: prints the records of a stream, every shard, until Ctrl-C."""

from __future__ import annotations

# typer reads the annotations at run time; everything heavy is imported inside, since `--help` answers in under 0.3 s.
from enum import Enum
from typing import Annotated

import typer

from shared.version_option import VersionOption

app = typer.Typer(
    name="consumer_from_cli",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(Enum):
    """What a record is printed as."""

    TEXT = "text"
    JSON = "json"


@app.command()
def consume(
    stream: Annotated[str, typer.Option("--stream", help="Name of the stream.")],
    start: Annotated[
        str, typer.Option("--from", help="TRIM_HORIZON, LATEST or an ISO 8601 time.", metavar="PLACE")
    ] = "TRIM_HORIZON",
    output: Annotated[Output, typer.Option("--output", help="`json` prints one JSON object a line.")] = Output.TEXT,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="End after this many records.", show_default="never")
    ] = None,
    _version: VersionOption = False,
) -> int:
    """Print every record of a stream with its shard and sequence number; Ctrl-C ends it.

    Follows all shards, children of splits and merges after their parents, and takes aggregated records apart.

    Example: consumer_from_cli --stream headrace-source --from LATEST --output json
    """
    from consumer.printing import print_stream  # noqa: PLC0415

    return print_stream(stream, start=start, as_json=output is Output.JSON, limit=limit)
