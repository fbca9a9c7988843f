"""Runs contenders against one null endpoint, in turns, each in a process of its own, and prints a table of medians."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess  # our own programs, with arguments made here
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from shared.compiled import COLUMNS

_MILLION: Final = 1_000_000
_INSTALL_SECONDS_MAX: Final = 180
_RUN_SECONDS_MAX: Final = 120
_ASYNC_KINESIS: Final = "async-kinesis==3.0.1"
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "headrace" / "benchmarks"


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to do the job; `share` is the part of the events that it gets: slow ones need fewer to be measured."""

    name: str
    label: str
    share: float = 1.0
    is_foreign: bool = False  # async-kinesis, in an environment of its own
    like: str = ""  # the contender that this one is, without the compiled part


class Meter:
    """User and system CPU seconds of this process between `start` and `report`."""

    def start(self) -> None:
        """Begin to measure."""
        self._before = resource.getrusage(resource.RUSAGE_SELF)

    def report(self) -> None:
        """Print the result for the process that started this one."""
        before, after = self._before, resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        sys.stdout.write(json.dumps({"cpu_seconds": used}) + "\n")


def parser_of(description: str | None, events: int) -> argparse.ArgumentParser:
    """Return the options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="a null endpoint that runs already; without it, one is started")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=events, help="events per run of a fast contender")
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # what a contender's own process is started with
    return parser


def hold(module: str, direction: str, contenders: Sequence[Contender], options: argparse.Namespace) -> None:
    """Run every contender `rounds` times in turns and print the table."""
    chosen = [each for each in contenders if not options.only or each.name in options.only]
    if COLUMNS is None:  # then those rows would be there twice
        chosen = [each for each in chosen if not each.like]
    foreign = _foreign_python() if any(each.is_foreign for each in chosen) else None
    if foreign is None:
        chosen = [each for each in chosen if not each.is_foreign]
    costs: dict[str, list[float]] = {each.name: [] for each in chosen}
    with endpoint_of(options.endpoint) as endpoint:
        for number in range(options.rounds):
            for each in chosen:
                count = max(1, int(options.events * each.share))
                command = (
                    [str(foreign), str(Path(__file__).with_name("async_kinesis_client.py")), direction, each.name]
                    if each.is_foreign
                    else [sys.executable, "-m", module, "--run", each.like or each.name, "--endpoint"]
                )
                tail = [endpoint, str(count)] if each.is_foreign else [endpoint, "--events", str(count)]
                used = run(command + tail, {"HEADRACE_COMPILED": "off"} if each.like else {})
                costs[each.name].append(used / count * _MILLION)
            sys.stderr.write(f"round {number + 1} of {options.rounds} done\n")
    _print_table(chosen, costs)


def run(command: list[str], settings: Mapping[str, str] = MappingProxyType({})) -> float:
    """Run a contender, with some settings in its environment, and return the CPU seconds that it reports."""
    environment = {
        **os.environ,
        **settings,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(  # noqa: S603 - see the import
        command, env=environment, stdout=subprocess.PIPE, timeout=_RUN_SECONDS_MAX, check=True, text=True
    )
    return float(json.loads(done.stdout.splitlines()[-1])["cpu_seconds"])


@contextlib.contextmanager
def endpoint_of(address: str | None, shards: int = 1) -> Iterator[str]:
    """Yield the address of a null endpoint: the given one, or that of one started for the time."""
    if address is not None:
        yield address
        return
    command = [sys.executable, "-m", "benchmarks.null_endpoint", "--shards", str(shards)]
    with subprocess.Popen(  # noqa: S603 - see the import
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None  # noqa: S101 - asked for
        assert server.stdin is not None  # noqa: S101 - asked for
        yield server.stdout.readline().strip()
        server.stdin.close()


def _foreign_python() -> Path | None:
    """Return the Python of an environment with async-kinesis, made at the first time; None if that is impossible."""
    folder = _CACHE / _ASYNC_KINESIS
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    try:
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", _ASYNC_KINESIS]
        subprocess.run(command, check=True, timeout=_INSTALL_SECONDS_MAX)  # noqa: S603 - see the import
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"async-kinesis is left out: it could not be installed ({type(error).__name__})\n")
        return None
    (folder / "complete").touch()
    return python


def _print_table(contenders: Sequence[Contender], costs: dict[str, list[float]]) -> None:
    best = costs[contenders[-1].name]
    title = (
        f"CPU seconds (user + system) of the client per million events; Python {platform.python_version()}, "
        f"median of {len(best)} rounds in turns; the ratio is to the last line, round by round."
    )
    lines = [
        title,
        "",
        "| contender | CPU-s per million | min - max | ratio |",
        "|---|---:|---:|---:|",
    ]
    for each in contenders:
        own = costs[each.name]
        ratio = statistics.median(mine / other for mine, other in zip(own, best, strict=True))
        lines.append(f"| {each.label} | {statistics.median(own):.2f} | {min(own):.2f} - {max(own):.2f} | {ratio:.1f} |")
    sys.stdout.write("\n".join(lines) + "\n")
