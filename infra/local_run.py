"""What the demo and the load test share: a worker on a local cloud, waited for, audited, and joined to one result."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from consumer.status import WorkerState, WorkerStatus
from consumer.worker import Worker
from infra.audit.core.report import AuditReport
from infra.audit.reading import audit_application
from infra.cloud.process import LocalCloudProcess
from infra.demo_screen import PipelineResult, Screen
from infra.pipeline import new_random
from infra.provision import Provisioned
from producer.run import RunSummary
from shared.aws.session import Aws

_POLL_SECONDS: Final = 0.1
_STALL_SECONDS: Final = 60  # without any progress of the consumer, nobody waits longer, and the audit speaks


def point_aws_to(cloud: LocalCloudProcess) -> None:
    """Make this process talk to the local cloud only, whatever the machine says about AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(cloud.environment())


async def wait_until_read(worker: Worker, expected: int, screen: Screen, consuming: asyncio.Task[None]) -> None:
    """Wait until the worker has seen every acknowledged record, or has made no progress for too long.

    One that has only begun to start has left nothing yet that an audit could go by.
    """
    seen, seen_at = -1, time.monotonic()
    while not consuming.done():
        status = worker.status()
        totals = status.totals
        # What a producer retried after a lost answer is read twice; it must not hide a record that was not read.
        read = totals.read - totals.duplicates
        screen.advance("consumed", read, expected)
        if read >= expected and status.state is not WorkerState.STARTING:
            return
        if read != seen:
            seen, seen_at = read, time.monotonic()
        elif time.monotonic() - seen_at > _STALL_SECONDS:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def audit_made(aws: Aws, made: Provisioned) -> AuditReport:
    """Audit the application that was provisioned."""
    return await audit_application(
        app=made.table,
        kinesis=await aws.kinesis(),
        leases=await aws.leases(made.table),
        open_bucket=aws.objects,
        random=new_random(),
        sleep=asyncio.sleep,
    )


def result_of(summary: RunSummary, status: WorkerStatus, report: AuditReport, seconds: float) -> PipelineResult:
    """Join what the producer counted with what the audit found; the counts of both have to agree."""
    failures = [] if report.is_ok else [report.verdict]
    if report.pending:
        failures.append(f"not stored when the consumer had ended: {report.pending}")
    filtered = sum(summary.filtered.values())
    if summary.lines != summary.events + filtered + summary.rejected:
        failures.append(
            f"lines {summary.lines} != events {summary.events} + filtered {filtered} + rejected {summary.rejected}"
        )
    if summary.undelivered:
        failures.append(f"undelivered: {summary.undelivered}")
    if report.acknowledged != summary.acknowledged:
        failures.append(f"acknowledged: {summary.acknowledged} by the producer, {report.acknowledged} in the stream")
    totals = status.totals
    return PipelineResult(
        lines=summary.lines,
        filtered=dict(summary.filtered),
        rejected=summary.rejected,
        events=summary.events,
        acknowledged=summary.acknowledged,
        dead_lettered=report.dead_lettered,
        in_s3=report.in_s3,
        in_destinations=report.in_destinations,
        per_destination=dict(totals.destinations),
        objects=totals.objects,
        object_bytes=totals.object_bytes,
        lost=report.lost,
        duplicated_in_s3=report.duplicated_in_s3,
        duplicated_in_streams=report.duplicated_in_streams,
        out_of_order=report.out_of_order,
        seconds=seconds,
        verdict="; ".join(failures) or "ok",
        audit=report.as_mapping(),
    )
