"""The local cloud in the foreground, as `headrace local` and `python -m infra.cloud` run it."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.cloud.fault_files import load_faults
from infra.cloud.moto_bridge import INSTALL_HINT
from infra.cloud.server import LocalCloud
from shared.lifecycle import ExitCode, StopSignal, run_work, stop_on_signals
from shared.telemetry import configure_logging
from shared.terminal import flush_data, run_command, say, write_data

PORT_DEFAULT: Final = 4_566
STATUS_DELAY_SECONDS: Final = 0.2
ACCESS_KEY: Final = "local"
SECRET_KEY: Final = "local"  # noqa: S105 (any value is accepted; this one is printed for everybody to use)
REGION: Final = "us-east-1"


def run(
    *,
    port: int = PORT_DEFAULT,
    host: str = "127.0.0.1",
    data_dir: Path | None = None,
    limits_enforced: bool = True,
    status_delay_seconds: float = STATUS_DELAY_SECONDS,
    faults: str | None = None,
    ends_with_stdin: bool = False,
    tls_port: int | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT (or until stdin closes) and return the exit code.

    Prints the `export` lines on stdout once it listens. Raises AddressError if the port is taken and ConfigurationError
    if the data folder or the faults (a file, or the name of ready-made ones) can't be used.
    """
    configure_logging()
    cloud = LocalCloud(
        host=host,
        port=port,
        data_dir=data_dir,
        limits_enforced=limits_enforced,
        status_delay_seconds=status_delay_seconds,
        faults=None if faults is None else load_faults(faults),
        tls_port=tls_port,
    )
    return run_work(_serve(cloud, ends_with_stdin=ends_with_stdin))


async def _serve(cloud: LocalCloud, *, ends_with_stdin: bool) -> int:
    if not _is_loopback(cloud.host):
        say(
            f"warning: {cloud.host} is not loopback: whoever reaches it can read and change everything, unauthenticated"
        )
    async with stop_on_signals() as stop, cloud:
        for line in export_lines(cloud.endpoint_url):
            write_data(line)
        flush_data()
        if cloud.tls_port is not None:
            say(f"TLS on port {cloud.tls_port}; its certificate is signed by nobody: let clients not verify it")
        if cloud.missing:
            say(f"only Kinesis is served: {', '.join(cloud.missing)} not installed\n\nhint: {INSTALL_HINT}")
        if ends_with_stdin:
            _stop_at_end_of_stdin(stop)
        async with asyncio.TaskGroup() as group:
            # The first request to DynamoDB or S3 then does not wait for a second of imports.
            group.create_task(cloud.warm_up())
            await stop.requested.wait()
    return int(ExitCode.DONE)


def export_lines(endpoint_url: str) -> list[str]:
    """The five lines for a shell that point every AWS client to the endpoint; the first one has its URL."""
    return [
        f"export AWS_ENDPOINT_URL={endpoint_url}",
        f"export AWS_ACCESS_KEY_ID={ACCESS_KEY}",
        f"export AWS_SECRET_ACCESS_KEY={SECRET_KEY}",
        f"export AWS_REGION={REGION}",
        f"export AWS_DEFAULT_REGION={REGION}",
    ]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stop_at_end_of_stdin(stop: StopSignal) -> None:
    """Ask for the end when the parent closes the pipe, also by dying: no server is left behind."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(descriptor, 4_096):
            loop.remove_reader(descriptor)
            stop.notify()

    loop.add_reader(descriptor, on_readable)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m infra.cloud`: the same without the rest of the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.cloud", description=run.__doc__)
    parser.add_argument("--port", type=int, default=PORT_DEFAULT)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--no-limits", action="store_true")
    parser.add_argument("--status-delay-seconds", type=float, default=STATUS_DELAY_SECONDS)
    parser.add_argument("--faults", default=None)
    parser.add_argument("--tls-port", type=int, default=None)
    parser.add_argument("--ends-with-stdin", action="store_true")
    options = parser.parse_args(arguments)

    def serve(**_kwargs: object) -> int:
        return run(
            port=options.port,
            host=options.host,
            data_dir=options.data_dir,
            limits_enforced=not options.no_limits,
            status_delay_seconds=options.status_delay_seconds,
            faults=options.faults,
            ends_with_stdin=options.ends_with_stdin,
            tls_port=options.tls_port,
        )

    run_command(serve, [])
