"""`python -m infra.sample` writes the shipped sample again; with `--check` it says whether it would differ."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from infra.sample.package import FOLDER, differing_files, write_files
from shared.errors import ConfigurationError
from shared.lifecycle import ExitCode
from shared.terminal import render_error, say

_CHECK = "--check"


def main(arguments: Sequence[str]) -> int:
    """Write or check; returns the exit code: 0, or 1 if a shipped file differs, or 2 for other arguments."""
    if list(arguments) not in ([], [_CHECK]):
        say(render_error(ConfigurationError("unknown arguments", hint=f"python -m infra.sample [{_CHECK}]")))
        return int(ExitCode.USAGE)
    if not arguments:
        write_files(FOLDER)
        return int(ExitCode.DONE)
    differing = differing_files(FOLDER)
    for name in differing:
        say(f"error: infra/sample/{name} is not what the generator makes\n\nhint: python -m infra.sample")
    return int(ExitCode.FAILED if differing else ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
