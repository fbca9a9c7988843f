"""All planted bugs, by name."""

from tests.simulation.planted import (  # noqa: F401 - importing them registers their bugs
    archive_bugs,
    checkpoint_bugs,
    duplicate_bugs,
    fan_out_bugs,
    fleet_bugs,
    lease_bugs,
    manifest_bugs,
    object_bugs,
    operator_bugs,
    sending_bugs,
    tailing_bugs,
)
from tests.simulation.planted.registry import BUGS, Bug

__all__ = ["BUGS", "Bug"]
