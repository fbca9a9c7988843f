"""The console scripts as a user has them: subprocesses against one `headrace local` per test process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

BIN = Path(sys.executable).parent
_EXPORT = re.compile(r"^export (AWS_[A-Z_]+)=(.+)$")
PATIENCE_SECONDS = 60


def clean_environment() -> dict[str, str]:
    """Return the environment of this process without anything about AWS, headrace or CI."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "HEADRACE_")) and name not in {"CI", "NO_COLOR"}
    }
    return kept | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    }


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs the console scripts with one environment."""

    environment: dict[str, str]
    folder: Path

    def run(
        self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = PATIENCE_SECONDS, **extra: str
    ) -> Finished:
        """Run a script to its end."""
        done = subprocess.run(
            [str(BIN / script), *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env=self.environment | extra,
            cwd=self.folder,
            check=False,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(
        self,
        script: str,
        *arguments: str,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.DEVNULL,
        stderr: Any = subprocess.DEVNULL,
        **extra: str,
    ) -> subprocess.Popen[bytes]:
        """Start a script in the background; the test ends it."""
        return subprocess.Popen(
            [str(BIN / script), *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self.environment | extra,
            cwd=self.folder,
        )

    def client(self, service: str) -> Any:
        """Return a plain boto3 client of the same cloud."""
        return boto3.client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )


@pytest.fixture(scope="session")
def cloud_environment() -> Iterator[dict[str, str]]:
    """Start `headrace local` on a free port and read the lines that it prints."""
    process = subprocess.Popen(
        [str(BIN / "headrace"), "local", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
        text=True,
    )
    assert process.stdout is not None
    exports: dict[str, str] = {}
    for line in process.stdout:
        found = _EXPORT.match(line.strip())
        if found:
            exports[found[1]] = found[2]
        if {
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_REGION",
            "AWS_DEFAULT_REGION",
        } <= set(exports):
            break
    yield clean_environment() | exports
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_SECONDS) == 0
    process.stdout.close()


@pytest.fixture
def shell(cloud_environment: dict[str, str], tmp_path: Path) -> Shell:
    """Give the test a shell whose AWS is the local cloud and whose folder is its own."""
    return Shell(cloud_environment, tmp_path)


@pytest.fixture
def bare_shell(tmp_path: Path) -> Shell:
    """Give the test a shell without any AWS settings."""
    return Shell(clean_environment(), tmp_path)
