"""Carries the Kinesis streams of CloudFormation stacks, which moto makes inside itself, over into our Kinesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.stream import ON_DEMAND, PROVISIONED

if TYPE_CHECKING:
    from infra.cloud.kinesis_service import KinesisService
    from infra.cloud.moto_application import DeclaredStream

_LOG = structlog.get_logger(__name__)


@dataclass(slots=True)
class StackStreams:
    """Follows which streams moto's stacks have; a stream that is there already, by whatever hand, is left alone."""

    kinesis: KinesisService
    _known: dict[tuple[str, str], int] = field(default_factory=dict)

    def follow(self, declared: list[DeclaredStream]) -> None:
        """Make the streams that are new, scale those whose number of shards changed, delete those that went."""
        now_there = {(each.region, each.name): each for each in declared}
        for key, each in now_there.items():
            try:
                self._take(key, each)
            except ApiError as error:
                _LOG.warning("stream of a stack not made", stream=each.name, error=str(error))
            self._known[key] = each.shard_count
        for region, name in [key for key in self._known if key not in now_there]:
            del self._known[region, name]
            try:
                self.kinesis.engine(region).delete_stream(name, enforce_consumer_deletion=True)
            except ApiError as error:
                _LOG.warning("stream of a stack not deleted", stream=name, error=str(error))

    def _take(self, key: tuple[str, str], declared: DeclaredStream) -> None:
        engine = self.kinesis.engine(declared.region)
        before = self._known.get(key)
        if before is None and declared.name not in engine.list_stream_names():
            mode = (declared.properties.get("StreamModeDetails") or {}).get("StreamMode", PROVISIONED)
            stream = engine.create_stream(
                declared.name,
                None if mode == ON_DEMAND else declared.shard_count,
                mode=mode,
                tags={each["Key"]: each["Value"] for each in declared.properties.get("Tags", [])},
            )
            stream.retention_hours = max(stream.retention_hours, declared.retention_hours)
            engine.streams.changed(stream)
        elif before is not None and before != declared.shard_count:
            engine.update_shard_count(declared.name, declared.shard_count)
