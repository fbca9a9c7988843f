"""What the container images hold, as far as it can be told without building them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.slow
def test_the_image_has_no_test_tools_and_no_local_cloud() -> None:
    """What `uv sync --locked --no-dev` installs has neither moto nor flask nor any test tool."""
    uv = ROOT / ".venv-uv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not where `make setup` puts it")
    exported = subprocess.run(
        [
            str(uv),
            "export",
            "--locked",
            "--no-dev",
            "--no-hashes",
            "--no-header",
            "--offline",
            "--python",
            sys.executable,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    names = {found[1].lower() for line in exported.splitlines() if (found := re.match(r"([A-Za-z0-9][\w.-]*)==", line))}
    assert {"aiobotocore", "boto3", "orjson", "structlog"} <= names
    assert names & {"moto", "flask", "flask-cors", "werkzeug", "cbor2", "pytest", "hypothesis", "mypy", "ruff"} == set()


def test_the_build_takes_the_locked_dependencies_only() -> None:
    """Every installation in the build is pinned: the installer by hash, the rest by the lock file, without extras."""
    installs = re.findall(r"(?:pip install|uv sync)[^\n&]*", DOCKERFILE)
    assert len(installs) == 3
    for each in installs:
        assert "--require-hashes" in each or ("--locked" in each and "--no-dev" in each and "--extra" not in each)


def test_both_images_run_as_the_same_user_without_a_shell() -> None:
    """The targets are there, start by exec form (so that SIGTERM reaches them) and run as uid 10001."""
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert stages[-2:] == [("runtime", "producer"), ("runtime", "consumer")]
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE) == [
        '["producer_from_cli"]',
        '["headrace", "consume"]',
    ]
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE


def test_the_context_holds_the_packages_of_the_wheel() -> None:
    """The build copies every package that the wheel is made of, and .dockerignore lets each of them in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for package in packages:
        assert f"COPY {package} {package}" in DOCKERFILE
        assert f"!{package}" in allowed
