"""The local cloud as a child process, for tests, demos and load tests: its CPU time and its memory are its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from infra.cloud.command import ACCESS_KEY, REGION, SECRET_KEY
from shared.errors import ServiceError

_READY_PREFIX: Final = "export AWS_ENDPOINT_URL="
_PROJECT: Final = Path(__file__).resolve().parents[2]
_LINE_BYTES_MAX: Final = 65_536


@dataclass(slots=True)
class LocalCloudProcess:
    """Starts `python -m infra.cloud`, waits until it listens, and ends it by its pid.

    Works as a context manager and as an async one. The child also ends when this process does, however it ends. Raises
    ServiceError if the child does not come up within `start_seconds_max`. `faults_path` is a file of faults, or the
    name of ready-made ones.
    """

    port: int = 0
    data_dir: Path | None = None
    limits_enforced: bool = True
    status_delay_seconds: float = 0.2
    faults_path: Path | str | None = None
    start_seconds_max: float = 60.0
    stop_seconds_max: float = 10.0
    endpoint_url: str = field(init=False, default="")
    _child: subprocess.Popen[bytes] | None = field(init=False, default=None)

    @property
    def pid(self) -> int:
        """The child's process id; 0 while there is none."""
        return 0 if self._child is None else self._child.pid

    def environment(self) -> dict[str, str]:
        """The variables that point an AWS client to this cloud, to be added to a child's environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def start(self) -> Self:
        """Start the child and wait until it listens."""
        arguments = [sys.executable, "-m", "infra.cloud", "--port", str(self.port), "--ends-with-stdin"]
        if self.data_dir is not None:
            arguments += ["--data-dir", str(self.data_dir)]
        arguments += ["--status-delay-seconds", str(self.status_delay_seconds)]
        if self.faults_path is not None:
            arguments += ["--faults", str(self.faults_path)]
        if not self.limits_enforced:
            arguments.append("--no-limits")
        path = os.pathsep.join(filter(None, (str(_PROJECT), os.environ.get("PYTHONPATH", ""))))
        self._child = subprocess.Popen(  # noqa: S603 (our own interpreter and module, no shell)
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C on the terminal is for the parent, which then ends the child itself.
        )
        try:
            self.endpoint_url = self._read_endpoint(self._child)
        except BaseException:
            self.stop()
            raise
        return self

    def _read_endpoint(self, child: subprocess.Popen[bytes]) -> str:
        if child.stdout is None:
            raise ServiceError("the local cloud has no output to read")
        deadline = time.monotonic() + self.start_seconds_max
        received = b""
        while b"\n" not in received and len(received) < _LINE_BYTES_MAX:
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(child.stdout.fileno(), _LINE_BYTES_MAX) if ready else b""
            if not chunk:
                raise ServiceError(self._why_not_up(child, ended=bool(ready)), hint="its own message is on stderr")
            received += chunk
        first = received.split(b"\n", 1)[0].decode()
        if not first.startswith(_READY_PREFIX):
            raise ServiceError(f"the local cloud said {first[:200]!r} instead of its address")
        return first.removeprefix(_READY_PREFIX)

    def _why_not_up(self, child: subprocess.Popen[bytes], *, ended: bool) -> str:
        if ended:
            # Its output is at an end, so it is about to exit: a moment tells the code.
            with contextlib.suppress(subprocess.TimeoutExpired):
                return f"the local cloud ended before it listened (exit code {child.wait(self.stop_seconds_max)})"
        return f"the local cloud did not come up within {self.start_seconds_max} s"

    def stop(self) -> int:
        """End the child with SIGTERM, after `stop_seconds_max` with SIGKILL; returns its exit code."""
        child = self._child
        if child is None:
            return 0
        self._child = None
        child.terminate()
        try:
            code = child.wait(self.stop_seconds_max)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def kill(self) -> None:
        """End the child with SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
