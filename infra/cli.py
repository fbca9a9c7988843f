"""The `headrace` command: local cloud, provisioning, the consumer, the audit and the demo."""

from __future__ import annotations

# typer reads the annotations of the commands at run time, so what they name is imported here; everything heavy
# (botocore, pydantic, rich) is imported inside the commands, because `--help` has to answer in under 0.3 s.
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from infra.control.cli import add_control
from infra.options import AppOption, Output, OutputOption, setting
from shared.version_option import VersionOption

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def headrace(_version: VersionOption = False) -> None:
    """Web-server events through Amazon Kinesis: nothing lost, order kept, each event in exactly one S3 object."""


BucketOption = Annotated[str | None, setting("--bucket", "S3 bucket of the archive.")]
SourceStreamOption = Annotated[str | None, setting("--source-stream", "Name of the source stream.")]
DestStreamsOption = Annotated[str | None, setting("--dest-streams", 'JSON: {"USA": "NAME", "International": "NAME"}.')]
StartOption = Annotated[
    str | None,
    setting(
        "--from",
        "Where an unread shard starts: TRIM_HORIZON, LATEST or a time.",
        default="TRIM_HORIZON",
        variable="START_FROM",
    ),
]
FanOutOption = Annotated[
    bool | None,
    typer.Option(
        "--fan-out",
        help="Read by enhanced fan-out, as a registered consumer.",
        envvar="HEADRACE_FAN_OUT",
        show_default=False,
    ),
]
WorkerOption = Annotated[str | None, setting("--worker-id", "Name of this worker.")]
FlushSecondsOption = Annotated[
    float | None, setting("--flush-seconds", "Age at which an S3 batch is closed.", default="60")
]
FlushBytesOption = Annotated[
    int | None, setting("--flush-bytes-max", "Size at which an S3 batch is closed.", default="5242880")
]
HttpHostOption = Annotated[
    str | None, setting("--http-host", "Address of health, metrics and live page.", default="127.0.0.1")
]
HttpPortOption = Annotated[int | None, setting("--http-port", "Their port; 0 any free one, -1 none.", default="8080")]


@app.command()
def demo(
    events: Annotated[
        int | None, typer.Option("--events", min=1, help="Stop after this many lines of the log.", show_default="all")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", help="A web-server log (Combined Log Format, plain or gzip).", show_default="the shipped sample"
        ),
    ] = None,
    countries: Annotated[
        Path | None, typer.Option("--countries", help="Table `ip_from,ip_to,code` that tells a visitor's country.")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", help="URL patterns: default, zanbil or a TOML file.", show_default="found by looking"),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the live page.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Run the whole pipeline on an embedded local cloud, then audit it; exit 0 only if nothing is wrong.

    Example: headrace demo --log access.log.gz
    """
    from infra.demo import run_demo  # noqa: PLC0415

    return run_demo(
        lines_max=events,
        log=log,
        countries=countries,
        site=site,
        opens_browser=not no_browser,
        as_json=output is Output.JSON,
    )


@app.command()
def local(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any free one.")] = 4566,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; anything but loopback is your decision.")
    ] = "127.0.0.1",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder that keeps the state across restarts.")
    ] = None,
    limits: Annotated[
        bool,
        typer.Option(
            "--limits/--no-limits",
            help="Enforce the shards' limits (1 MiB/s, 1,000 records/s in; 2 MiB/s, 5 calls/s out).",
        ),
    ] = True,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            help="What goes wrong: a TOML file, or calm, throttled, lossy-network, resharding, bad-day.",
            show_default="nothing",
        ),
    ] = None,
    tls_port: Annotated[
        int | None,
        typer.Option(
            "--tls-port",
            min=0,
            max=65535,
            help="A second port, for TLS, which the KPL insists on.",
            show_default="none",
        ),
    ] = None,
) -> int:
    """Serve Kinesis, DynamoDB, S3 and what else the pipeline needs on one endpoint, until Ctrl-C.

    Prints the `export AWS_...` lines that point any AWS client to it.

    Example: headrace local --port 4566
    """
    from infra.cloud.command import run  # noqa: PLC0415

    return run(port=port, host=host, data_dir=data_dir, limits_enforced=limits, faults=faults, tls_port=tls_port)


@app.command()
def provision(
    shards: Annotated[int, typer.Option("--shards", min=1, max=10_000, help="Shards per stream.")] = 2,
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="On-demand streams instead of a number of shards.")
    ] = False,
    application: AppOption = None,
    source_stream: SourceStreamOption = None,
    dest_streams: DestStreamsOption = None,
    bucket: BucketOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what provisioning made.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --delete: also remove a bucket that holds objects.")
    ] = False,
    firehose: Annotated[
        bool,
        typer.Option(
            "--firehose",
            help="Also an AWS delivery stream (Firehose) per destination, with role, log group and bucket.",
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Make the streams, the bucket and the lease table; what exists is left alone.

    For a function of your own, `--dest-streams '{}'` makes the source stream and the lease table alone.

    Example: headrace provision --shards 4
    """
    from infra.commands import run_provision  # noqa: PLC0415

    return run_provision(
        shards=shards,
        on_demand=on_demand,
        app=application,
        source_stream=source_stream,
        dest_streams=dest_streams,
        bucket=bucket,
        delete=delete,
        force=force,
        firehose=firehose,
        as_json=output is Output.JSON,
    )


@app.command()
def consume(
    source_stream: SourceStreamOption = None,
    dest_streams: DestStreamsOption = None,
    bucket: BucketOption = None,
    application: AppOption = None,
    start_from: StartOption = None,
    fan_out: FanOutOption = None,
    worker_id: WorkerOption = None,
    flush_seconds: FlushSecondsOption = None,
    flush_bytes_max: FlushBytesOption = None,
    http_host: HttpHostOption = None,
    http_port: HttpPortOption = None,
) -> int:
    """Read a stream, enrich each event, deliver it to the destination streams and to S3, until SIGTERM.

    Every setting of docs/reference/settings.md is an environment variable. For CSV and Parquet, declare the columns
    (HEADRACE_ARCHIVE_SCHEMA): those inferred are the first flush's, for good; events with others become dead letters.

    Example: headrace consume --source_stream events --dest_streams '{"USA": "usa", "International": "world"}'
    """
    from infra.commands import run_consume  # noqa: PLC0415

    return run_consume(
        source_stream=source_stream,
        dest_streams=dest_streams,
        bucket=bucket,
        app=application,
        start_from=start_from,
        fan_out=fan_out,
        worker_id=worker_id,
        flush_seconds=flush_seconds,
        flush_bytes_max=flush_bytes_max,
        http_host=http_host,
        http_port=http_port,
    )


@app.command()
def audit(
    application: AppOption = None,
    receipts: Annotated[
        Path | None,
        typer.Option("--receipts", help="The producer's `--output json` lines: each must be in the source stream."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Compare what was acknowledged with S3 and the destination streams: lost, duplicated, out of order.

    Exit 1 if anything is. What is behind the checkpoints, as an open batch is, is not stored yet: verdict `pending`,
    exit 0.

    Example: headrace audit --app headrace
    """
    from infra.commands import run_audit  # noqa: PLC0415

    return run_audit(app=application, receipts=receipts, as_json=output is Output.JSON)


@app.command()
def loadtest(
    rate_min: Annotated[
        float, typer.Option("--rate-min", min=1, max=100_000, help="Events per second of the first step.")
    ] = 100,
    rate_max: Annotated[
        float, typer.Option("--rate-max", min=1, max=100_000, help="Events per second of the last step.")
    ] = 1000,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=3600, help="Length of the ramp.")] = 30,
    steps: Annotated[int, typer.Option("--steps", min=1, max=60, help="Steps of equal length.")] = 6,
    shards: Annotated[int, typer.Option("--shards", min=1, max=200, help="Shards per stream.")] = 2,
    faults: Annotated[
        str | None,
        typer.Option("--faults", help="What goes wrong, as of `headrace local`.", show_default="nothing"),
    ] = None,
    html: Annotated[Path, typer.Option("--html", help="Page to write.")] = Path("loadtest.html"),
    output: OutputOption = Output.TEXT,
) -> int:
    """Send a ramp of events through the whole pipeline on an embedded local cloud; measure and audit it.

    Open loop: events come when they are due, whether or not those before them were served, and latencies count from
    then. Ends by itself; Ctrl-C ends the ramp early, a second one everything. Exit 1 if anything was lost, duplicated
    in S3 or out of order.

    Example: headrace loadtest --rate-max 3000 --seconds 60 --shards 4
    """
    from infra.load.command import run_loadtest  # noqa: PLC0415

    return run_loadtest(
        rate_min=rate_min,
        rate_max=rate_max,
        seconds=seconds,
        steps=steps,
        shards=shards,
        faults=faults,
        page=html,
        as_json=output is Output.JSON,
    )


class QueryOutput(Enum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help='A query over `events`, `dead_letters`, "USA", ...')],
    application: AppOption = None,
    bucket: Annotated[str | None, setting("--bucket", "S3 bucket of the archive.", default="the application's")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A folder that holds a copy of the bucket, instead of S3.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Leave out objects of hours before this time (UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Leave out objects of hours from this time on (UTC).")
    ] = None,
    bytes_max: Annotated[int, typer.Option("--bytes-max", min=1, help="Refuse to fetch more than this from S3.")] = 4
    << 30,
    output: Annotated[QueryOutput, typer.Option("--output", help="How rows are written.")] = QueryOutput.TABLE,
) -> int:
    """Run SQL (DuckDB) over the archive; one view per destination, `events` over all, `dead_letters`.

    Needs the extra `query`. Objects are copied to a temporary folder; --folder reads a copy that is there already.

    Example: headrace query "SELECT destination, count(*) FROM events GROUP BY ALL"
    """
    from infra.query.command import run_query  # noqa: PLC0415

    return run_query(
        sql,
        app=application,
        bucket=bucket,
        folder=folder,
        since=since,
        until=until,
        bytes_max=bytes_max,
        output=output.value,
    )


add_control(app)
