"""What the sub-commands of `headrace` do, each from its options to its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from consumer.http_server import HttpServer
from infra.audit.core.report import AuditReport
from infra.audit.reading import audit_application
from infra.pipeline import check_streams, new_random, open_worker
from infra.provision import Plan, deprovision, provision
from shared.allocator import tune_allocator
from shared.aws.session import open_aws
from shared.collector import tune_collector
from shared.errors import AuditFailedError, ConfigurationError, SourceError
from shared.lifecycle import ExitCode, run_work, stop_on_signals
from shared.limits import MIB
from shared.settings import ConsumerSettings, load_settings
from shared.telemetry import StructlogTelemetry, configure_logging
from shared.terminal import say, write_data

_RECEIPT_BYTES_MAX: Final = 1 * MIB  # one line of a receipts file


def run_provision(
    *,
    shards: int,
    on_demand: bool,
    app: str | None,
    source_stream: str | None,
    dest_streams: str | None,
    bucket: str | None,
    delete: bool,
    force: bool,
    firehose: bool,
    as_json: bool,
) -> int:
    """Make, or with `delete` remove, streams, bucket and table."""
    settings = load_settings(
        ConsumerSettings, app=app, source_stream=source_stream, dest_streams=dest_streams, bucket=bucket
    )
    plan = Plan.of(settings, shards=None if on_demand else shards, has_delivery=firehose)
    if delete:
        removed = run_work(deprovision(plan, force=force))
        if as_json:
            write_data(orjson.dumps(removed.as_json()).decode())
        return int(ExitCode.DONE)
    made = run_work(provision(plan))
    if as_json:
        write_data(orjson.dumps(made.as_json()).decode())
    else:
        say(f"\n{made.next_step}")
    return int(ExitCode.DONE)


def run_consume(**given: Any) -> int:
    """Run one worker until SIGTERM or SIGINT."""
    settings = load_settings(ConsumerSettings, **given)
    check_streams(settings)
    configure_logging()
    return run_work(_consume(settings))


async def _consume(settings: ConsumerSettings) -> int:
    telemetry = StructlogTelemetry()
    async with (
        stop_on_signals() as stop,
        open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws,
        open_worker(aws, settings, telemetry) as worker,
        HttpServer(worker.status, telemetry, host=settings.http_host, port=settings.http_port) as server,
    ):
        if server.url:
            say(f"Live page: {server.url}")
        tune_allocator()
        tune_collector()
        await worker.run(stop.requested, stop.hurried)
        totals = worker.status().totals
    say(
        f"Read {totals.read:,} records; {totals.enriched:,} enriched, {totals.duplicates:,} duplicates dropped,"
        f" {totals.dead_letters:,} dead letters, {totals.objects:,} objects"
    )
    return int(ExitCode.DONE)


def run_audit(*, app: str | None, receipts: Path | None, as_json: bool) -> int:
    """Audit an application; exit code 1 (AuditFailedError) if anything is lost, doubled in S3 or out of order."""
    settings = load_settings(ConsumerSettings, app=app)
    ids = list(_receipts(receipts)) if receipts is not None else []
    report = run_work(_audit(settings, ids))
    if as_json:
        write_data(orjson.dumps(report.as_mapping()).decode())
    else:
        for line in audit_lines(report):
            write_data(line)
    if not report.is_ok:
        raise AuditFailedError(f"The audit failed: {report.verdict}", hint="--output json names examples")
    return int(ExitCode.DONE)


async def _audit(settings: ConsumerSettings, receipts: list[str]) -> AuditReport:
    async with open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws:
        return await audit_application(
            app=settings.app,
            kinesis=await aws.kinesis(),
            leases=await aws.leases(settings.app),
            open_bucket=aws.objects,
            random=new_random(),
            sleep=asyncio.sleep,
            receipts=receipts,
        )


def audit_lines(report: AuditReport) -> list[str]:
    """Return the report as lines for people."""
    rows = [
        ("acknowledged", report.acknowledged),
        ("in S3", report.in_s3),
        ("in destination streams", report.in_destinations),
        ("dead letters", report.dead_lettered),
        ("not stored yet", report.pending),
        ("lost", report.lost),
        ("duplicated in S3", report.duplicated_in_s3),
        ("duplicated in streams", report.duplicated_in_streams),
        ("out of order", report.out_of_order),
        ("retention gaps", report.retention_gaps),
    ]
    if report.manifests_listed or report.manifests_differing:
        rows += [
            ("objects in manifests", report.manifests_listed),
            ("listed, not in S3", report.manifests_missing),
            ("in S3, not listed", report.manifests_unlisted),
            ("counted otherwise", report.manifests_differing),
        ]
    return [f"{name:<24}{count:>12,}" for name, count in rows] + [f"{'verdict':<24}{report.verdict:>12}"]


def _receipts(path: Path) -> Iterator[str]:
    """Read the event ids of a producer's receipts; lines that are no receipts (its summary) are passed over."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_RECEIPT_BYTES_MAX):
                try:
                    receipt = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise ConfigurationError(
                        f"`{path}` is no file of receipts: a line is not JSON",
                        hint="Write it with `producer_from_cli --output json > FILE`",
                    ) from error
                if isinstance(receipt, dict) and isinstance(receipt.get("event_id"), str):
                    yield receipt["event_id"]
    except OSError as error:
        raise SourceError(
            f"`{path}` can't be read: {error.strerror}", hint="Check the path and its permissions"
        ) from error
