"""The sub-commands of `headrace` that look at a running group and steer it."""

from __future__ import annotations

# As in infra.cli: what annotations name is imported here, everything heavy inside the commands.
from typing import Annotated

import typer

from infra.options import AppOption, Output, OutputOption


def status(
    application: AppOption = None,
    stream: Annotated[
        str | None,
        typer.Option("--stream", help="Instead: which partition keys load each shard of this stream.", metavar="NAME"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Lease rows only: read no record and list no object.")] = False,
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=0.5, help="Look again every so many seconds, until Ctrl-C.", show_default="once"),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show the workers and shards of an application: owners, checkpoints, age, time until unread data is trimmed.

    Reads one record per unfinished shard, where its reader has not been yet. Changes nothing.

    Example: headrace status --app headrace --watch 5
    """
    from infra.control.commands import run_hot_shards, run_status  # noqa: PLC0415

    as_json = output is Output.JSON
    if stream is not None:
        return run_hot_shards(stream, watch_seconds=watch, as_json=as_json)
    return run_status(application, is_quick=quick, watch_seconds=watch, as_json=as_json)


ShardOption = Annotated[
    list[str] | None, typer.Option("--shard", help="Only this shard; may be given again.", show_default="all")
]


def seek(
    to: Annotated[str, typer.Option("--to", help="TRIM_HORIZON, LATEST or an ISO 8601 time.", metavar="PLACE")],
    application: AppOption = None,
    shard: ShardOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read again, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Move a running application to a place in time: each shard from there on, children after their parents.

    What is read again is delivered again. LATEST leaves out what is unread now. --shard takes its descendants along.

    Example: headrace seek --app headrace --to 2026-11-21T08:00:00+00:00 --dry-run
    """
    from infra.control.commands import run_seek  # noqa: PLC0415

    return run_seek(application, to=to, shards=shard or [], is_dry=dry_run, is_sure=yes, as_json=output is Output.JSON)


def pause(application: AppOption = None, shard: ShardOption = None, output: OutputOption = Output.TEXT) -> int:
    """Let an application stop reading: within seconds each owner stores what it has read and waits.

    Leases and checkpoints are kept, children of a paused shard are paused, too; `headrace resume` ends it.

    Example: headrace pause --app headrace
    """
    from infra.control.commands import run_pause  # noqa: PLC0415

    return run_pause(application, shards=shard or [], is_paused=True, as_json=output is Output.JSON)


def resume(application: AppOption = None, shard: ShardOption = None, output: OutputOption = Output.TEXT) -> int:
    """Let an application that was paused read on, and try again what was halted.

    A shard is halted where too many records failed, or where a flush ended the process again and again.

    Example: headrace resume --app headrace
    """
    from infra.control.commands import run_pause  # noqa: PLC0415

    return run_pause(application, shards=shard or [], is_paused=False, as_json=output is Output.JSON)


def forget(
    application: AppOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Forget where an application has come to, so that its name can begin anew, e.g. with a stream made anew.

    All of its workers have to be stopped: it looks for as long as a lease lasts, and refuses if one is alive.
    Positions, duplicate marks, pauses and inferred columns are deleted; streams, objects and dead letters stay. The
    next worker starts as at the very first time, and what it reads again is delivered again.

    Example: headrace forget --app headrace
    """
    from infra.control.commands import run_forget  # noqa: PLC0415

    return run_forget(application, is_sure=yes, as_json=output is Output.JSON)


deadletters = typer.Typer(
    name="deadletters",
    help="Look at the dead letters of an application, and put them back into its source stream.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
TypeOption = Annotated[
    str | None, typer.Option("--type", help="Only this type, e.g., processing-failed.", show_default="all")
]


@deadletters.command("list")
def list_letters(
    application: AppOption = None,
    error_type: TypeOption = None,
    keys: Annotated[bool, typer.Option("--keys", help="The keys of the objects instead of counts.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Count the dead letters by type, hour and reason.

    Example: headrace deadletters list --app headrace
    """
    from infra.control.commands import run_list_letters  # noqa: PLC0415

    return run_list_letters(application, error_type=error_type, lists_keys=keys, as_json=output is Output.JSON)


@deadletters.command("show")
def show_letters(
    key: Annotated[str, typer.Argument(help="Key of a dead-letter object, as `list --keys` prints it.")],
    application: AppOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Letters shown at most.")] = 10,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show what dead letters hold: reason, place and bytes; `json` is one object a line.

    Example: headrace deadletters show errors/processing-failed/dt=2026-11-21/hour=08/shardId-000000000000-4-7.json.gz
    """
    from infra.control.commands import run_show_letters  # noqa: PLC0415

    return run_show_letters(application, key=key, limit=limit, as_json=output is Output.JSON)


@deadletters.command("redrive")
def redrive(
    application: AppOption = None,
    error_type: Annotated[str, typer.Option("--type", help="Which type is put back.")] = "processing-failed",
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Only this object; may be given again.", show_default="all of the type"),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=0.1, max=10_000, help="Records per second.")] = 100,
    again: Annotated[bool, typer.Option("--again", help="Also objects that were put back before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Put dead letters back into the source stream, each object once, after what made them fail was mended.

    Events get a new event id, as their old one would be dropped as a duplicate. A run that was cut short is completed
    by another one. Letters of `stream-delivery-failed` are in S3 already and would be there twice.

    Example: headrace deadletters redrive --app headrace --dry-run
    """
    from infra.control.commands import run_redrive  # noqa: PLC0415

    return run_redrive(
        application,
        error_type=error_type,
        keys=key or [],
        rate=rate,
        again=again,
        is_dry=dry_run,
        is_sure=yes,
        as_json=output is Output.JSON,
    )


kcl = typer.Typer(
    name="kcl",
    help="Take the checkpoints of a Kinesis Client Library application over, and give them back.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
TableOption = Annotated[str, typer.Option("--table", help="Lease table of the KCL application.", metavar="NAME")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and change nothing.")]


@kcl.command("import")
def import_kcl(
    table: TableOption, application: AppOption = None, dry_run: DryOption = False, output: OutputOption = Output.TEXT
) -> int:
    """Take over where a KCL 2.x or 3.x application has come to; both applications have to be stopped.

    The KCL table is only read. Rows that exist are moved to KCL's checkpoint, as by a seek. Leases at AT_TIMESTAMP
    start at the time of `headrace consume --from`, as KCL stores none.

    Example: headrace kcl import --table my-kcl-application --app headrace --dry-run
    """
    from infra.control.commands import run_kcl  # noqa: PLC0415

    return run_kcl(application, table=table, is_import=True, is_dry=dry_run, as_json=output is Output.JSON)


@kcl.command("export")
def export_kcl(
    table: TableOption, application: AppOption = None, dry_run: DryOption = False, output: OutputOption = Output.TEXT
) -> int:
    """Write the checkpoints of an application into the lease table of a KCL application; both have to be stopped.

    Leases that are there and have no owner are replaced.

    Example: headrace kcl export --table my-kcl-application --app headrace --dry-run
    """
    from infra.control.commands import run_kcl  # noqa: PLC0415

    return run_kcl(application, table=table, is_import=False, is_dry=dry_run, as_json=output is Output.JSON)


def add_control(app: typer.Typer) -> None:
    """Add the commands to the `headrace` app."""
    for command in (status, seek, pause, resume, forget):
        app.command()(command)
    app.add_typer(deadletters)
    app.add_typer(kcl)
