"""The `producer_from_cli` command: one record, or every line of a file, of standard input or of a growing log."""

from __future__ import annotations

# typer reads the annotations at run time, so what they name is imported here; everything heavy (botocore, pydantic)
# is imported inside the command, because `--help` has to answer in under 0.3 s.
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from shared.version_option import VersionOption

app = typer.Typer(
    name="producer_from_cli",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(Enum):
    """What a line is."""

    AUTO = "auto"
    JSON = "json"
    COMBINED = "combined"
    CSV = "csv"


class Order(Enum):
    """How much order is kept."""

    LANE = "lane"
    NONE = "none"


class Output(Enum):
    """What goes to stdout."""

    TEXT = "text"
    JSON = "json"


StreamOption = Annotated[str, typer.Option("--stream", help="Name of the data stream.")]
SourceArgument = Annotated[
    str | None, typer.Argument(metavar="[-]", help="`-` reads from standard input, as no source at all does.")
]
JsonStringOption = Annotated[
    str | None, typer.Option("--json-string", help="One event as JSON; its session_id is the partition key.")
]
FileOption = Annotated[str | None, typer.Option("--file", help="File to read, plain or gzip; `-` is standard input.")]
HttpSourceOption = Annotated[
    str | None,
    typer.Option("--http-source", help="TOML file that describes a paginated HTTP API whose items are events."),
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", help="Event as JSON, access log (Combined Log Format), or CSV with a header row."),
]
FollowOption = Annotated[
    bool, typer.Option("--follow", help="Go on as the file grows, across rotation; resume from the bookmark.")
]
OrderingOption = Annotated[
    Order | None, typer.Option("--ordering", help="Keep order per session, or none.", show_default="lane")
]
AggregateOption = Annotated[
    bool | None,
    typer.Option("--aggregate/--no-aggregate", help="Pack events in KPL's format.", show_default="aggregate"),
]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", min=0.001, help="Events per second at most, as they are read.", show_default="no limit"),
]
OutputOption = Annotated[
    Output, typer.Option("--output", help="json: a receipt per event and the summary, one object a line.")
]
SiteOption = Annotated[
    str, typer.Option("--site", help="URL patterns of an access log: default, zanbil or a .toml file.")
]
CountriesOption = Annotated[
    Path | None, typer.Option("--countries", help="Table `ip_from,ip_to,code` that tells a visitor's country.")
]
SourceIdOption = Annotated[
    str | None,
    typer.Option(
        "--source-id",
        help="Name of the source in event ids. Without it a file read once gets a new one each time, so that "
        "sending it again on purpose is no duplicate; with it, readers drop what they have seen.",
        show_default="drawn",
    ),
]
StateDirOption = Annotated[
    str | None,
    typer.Option("--state-dir", help="Folder of bookmarks, keys and dead letters.", show_default=".headrace"),
]


@app.command()
def produce(
    stream: StreamOption,
    source: SourceArgument = None,
    json_string: JsonStringOption = None,
    file: FileOption = None,
    http_source: HttpSourceOption = None,
    line_format: FormatOption = Format.AUTO,
    follow: FollowOption = False,
    ordering: OrderingOption = None,
    aggregate: AggregateOption = None,
    rate: RateOption = None,
    output: OutputOption = Output.TEXT,
    site: SiteOption = "default",
    countries: CountriesOption = None,
    source_id: SourceIdOption = None,
    state_dir: StateDirOption = None,
    _version: VersionOption = False,
) -> int:
    """Put one event, or every line of a source, on a Kinesis data stream.

    The first SIGTERM or Ctrl-C ends reading, and what was accepted is sent at once, whatever --rate says; the second
    ends that, too.

    Exit codes: 0 done, also after SIGTERM, or Ctrl-C on a pipe or with --follow; 1 failed; 2 usage; 3 some events not
    delivered (or every line rejected); 130 Ctrl-C before the end of a file; 141 stdout closed before the end.

    Example: producer_from_cli --stream orders --file access.log --format combined
    """
    from producer.command import Given, run_produce  # noqa: PLC0415

    return run_produce(
        Given(
            stream=stream,
            json_string=json_string,
            path=_one_path(
                source, file, has_json=json_string is not None, follow=follow, has_api=http_source is not None
            ),
            line_format=_format_of(line_format, has_api=http_source is not None),
            http_source=http_source,
            follow=follow,
            ordering=None if ordering is None else ordering.value,
            aggregate=aggregate,
            events_per_second=rate,
            as_json=output is Output.JSON,
            site=site,
            countries=None if countries is None else str(countries),
            source_id=source_id,
            state_dir=state_dir,
        )
    )


def _format_of(line_format: Format, *, has_api: bool) -> str:
    """Return the format; the items of an API are JSON."""
    if has_api and line_format not in {Format.AUTO, Format.JSON}:
        raise typer.BadParameter(f"--http-source gives JSON, not {line_format.value}; leave out --format")
    return Format.JSON.value if has_api else line_format.value


def _one_path(source: str | None, file: str | None, *, has_json: bool, follow: bool, has_api: bool) -> str:
    """Return what to read; BadParameter if the options contradict each other."""
    if has_api and (has_json or source is not None or file is not None or follow):
        raise typer.BadParameter("--http-source is a source by itself; leave out the file, --json-string and --follow")
    if has_json and (source is not None or file is not None or follow):
        raise typer.BadParameter("--json-string is one event; leave out the file and --follow")
    if source is not None and file is not None:
        raise typer.BadParameter(f"two sources are given: {source} and {file}")
    path = file if file is not None else source
    if follow and path in {None, "-"}:
        raise typer.BadParameter("--follow needs --file PATH")
    return "-" if path is None else path
