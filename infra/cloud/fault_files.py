"""Files of faults by path, and the ready-made ones by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from infra.cloud.core.fault_file import FILE_BYTES_MAX, parse_faults
from infra.cloud.core.faults import FaultPlan
from shared.errors import ConfigurationError

SHIPPED: Final = ("calm", "throttled", "lossy-network", "resharding", "bad-day")


def load_faults(name_or_path: str | Path) -> FaultPlan:
    """Read a ready-made plan by its name, or a file; raises ConfigurationError that says what is wrong in it."""
    return parse_faults(read_faults(name_or_path))


def read_faults(name_or_path: str | Path) -> bytes:
    """Return the text of a plan, unchecked and cut behind what is allowed; raises ConfigurationError."""
    text = str(name_or_path)
    if text in SHIPPED:
        return files("infra.cloud").joinpath("faults", f"{text}.toml").read_bytes()
    try:
        with Path(text).open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(
            f"the faults {text[:200]!r} can't be read: {reason}",
            hint=f"a TOML file, or one of: {', '.join(SHIPPED)}",
        ) from error
