"""An access log through the real commands into the archive, counted by SQL: `python -m benchmarks.archive_log LOG`.

For each format, on a local cloud of its own: `headrace provision`, `producer_from_cli --file LOG`, `headrace consume`,
`headrace audit`, `headrace query`. The events that DuckDB counts in the objects, and the dead letters, must be as many
as the producer's ledger says were accepted and acknowledged, and as the manifests say were written; else it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from infra.cloud.process import LocalCloudProcess

_BIN: Final = Path(sys.executable).parent
_SOURCE: Final = "archive-log"
_DESTINATIONS: Final = json.dumps({"USA": "archive-log-usa", "International": "archive-log-world"})
_STREAMS: Final = ("--source-stream", _SOURCE, "--dest-streams", _DESTINATIONS, "--bucket", "archive-log")
_WAIT_SECONDS_MAX: Final = 600.0
_ABSENT: Final = """error: `{log}` is not there

hint: Take an access log in Combined Log Format, e.g. that of zanbil.ir (Zaker 2019, doi:10.7910/DVN/3QBYB5)"""


def _call(environment: dict[str, str], script: str, *arguments: str, is_expected_to_fail: bool = False) -> list[Any]:
    """Run a command to its end; return the JSON of its lines."""
    done = subprocess.run(  # noqa: S603 - our own commands, no shell
        [str(_BIN / script), *arguments],
        env=environment,
        capture_output=True,
        timeout=_WAIT_SECONDS_MAX,
        check=False,
    )
    if done.returncode and not is_expected_to_fail:
        raise RuntimeError(done.stderr.decode()[-2_000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def _wait_for_the_audit(environment: dict[str, str]) -> dict[str, Any]:
    """Audit until everything has arrived; return the last report."""
    deadline = time.monotonic() + _WAIT_SECONDS_MAX
    while True:
        report: dict[str, Any] = _call(
            environment, "headrace", "audit", "--app", _SOURCE, "--output", "json", is_expected_to_fail=True
        )[-1]
        if report["verdict"] == "ok" or time.monotonic() > deadline:
            return report
        time.sleep(1)


def _query(environment: dict[str, str], sql: str) -> int:
    ((number,),) = (
        row.values() for row in _call(environment, "headrace", "query", sql, "--app", _SOURCE, "--output", "json")
    )
    return int(number)


def _listed_in_manifests(environment: dict[str, str]) -> tuple[int, int]:
    """Return how many events and dead letters the names of the indexes tell of."""
    import boto3  # noqa: PLC0415 - an independent look at the bucket

    store = boto3.client(
        "s3", **{name.lower(): environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
        endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=environment["AWS_REGION"],
    )  # fmt: skip
    events = letters = 0
    for page in store.get_paginator("list_objects_v2").paginate(Bucket="archive-log", Prefix="manifests/"):
        for each in page.get("Contents", ()):
            if not each["Key"].endswith("_COMPLETE.json"):
                _, of_events, of_letters, _ = each["Key"].rsplit(".", 3)
                events, letters = events + int(of_events[1:]), letters + int(of_letters[1:])
    return events, letters


def _measure(log: Path, site: str, archive_format: str, folder: Path) -> bool:
    with LocalCloudProcess() as cloud:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HEADRACE_"))}
        environment = kept | cloud.environment() | {
            "HEADRACE_ARCHIVE_FORMAT": archive_format,
            "HEADRACE_COMPRESSION": "zstd",
            "HEADRACE_MANIFEST_PREFIX": "manifests/",
            "HEADRACE_FLUSH_SECONDS": "5",
        }  # fmt: skip
        _call(environment, "headrace", "provision", *_STREAMS, "--app", _SOURCE)
        begun = time.monotonic()
        consumer = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [str(_BIN / "headrace"), "consume", *_STREAMS, "--app", _SOURCE, "--http-port", "-1"],
            env=environment, stdout=subprocess.DEVNULL, stderr=(folder / f"{archive_format}.log").open("wb"),
        )  # fmt: skip
        try:
            options = (
                "--format",
                "combined",
                "--site",
                site,
                "--output",
                "json",
                "--state-dir",
                str(folder / archive_format),
            )
            ledger = _call(environment, "producer_from_cli", "--stream", _SOURCE, "--file", str(log), *options)[-1]
            report = _wait_for_the_audit(environment)
            seconds = time.monotonic() - begun
        finally:
            consumer.send_signal(signal.SIGTERM)
            consumer.wait(timeout=60)
        events = _query(environment, "SELECT count(*) FROM events")
        ids = _query(environment, "SELECT count(DISTINCT event_id) FROM events")
        letters = _query(environment, "SELECT count(*) FROM dead_letters")
        in_manifests = _listed_in_manifests(environment)
    accepted = ledger["events"]
    is_whole = ledger["lines"] == accepted + ledger["filtered"] + ledger["rejected"]
    is_equal: bool = accepted == ledger["acknowledged"] == events + letters == report["in_s3"] + report["dead_lettered"]
    is_equal &= is_whole and ids == events and in_manifests == (events, letters) and report["verdict"] == "ok"
    counts = {
        "lines": ledger["lines"],
        "filtered": ledger["filtered"],
        "rejected": ledger["rejected"],
        "accepted": accepted,
        "acknowledged": ledger["acknowledged"],
        "in DuckDB": events,
        "dead letters": letters,
        "in manifests": sum(in_manifests),
    }
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    verdict = "equal" if is_equal else "NOT EQUAL"
    print(f"{archive_format}: {told}; {verdict}; audit {report['verdict']}; {seconds:.0f} s")  # noqa: T201 - the result
    return is_equal


def main() -> int:
    """Archive the log as JSON and as Parquet; 1 if any count differs or the log is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="an access log, plain or gzip")
    parser.add_argument("--site", default="zanbil", help="URL patterns of the log; default %(default)s")
    parser.add_argument("--formats", nargs="+", default=["json", "parquet"], choices=["json", "csv", "parquet"])
    options = parser.parse_args()
    if not options.log.is_file():
        print(_ABSENT.format(log=options.log), file=sys.stderr)  # noqa: T201 - the message
        return 1
    with tempfile.TemporaryDirectory() as folder:
        equal = [_measure(options.log, options.site, each, Path(folder)) for each in options.formats]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
