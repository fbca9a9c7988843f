"""Keeps what moto's services were told: the successful requests that changed something, replayed at the next start.

Bounded to 1 GiB; beyond that changing requests are refused rather than forgotten. Times (LastModified and the like) are
those of the replay. CloudWatch metrics, logs and STS sessions are not kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from infra.cloud.segment_file import SegmentFile, SegmentFolder
from infra.cloud.service_request import ServiceRequest
from shared.errors import ConfigurationError

JOURNAL_BYTES_MAX: Final = 1024 * 1024 * 1024

_REQUEST: Final = 1
_HEAD: Final = struct.Struct(">I")  # length of the JSON head; the body follows it
_FORGETFUL: Final = frozenset({"monitoring", "logs", "sts"})
_DROPPED_HEADERS: Final = frozenset({"x-amz-security-token", "cookie", "connection"})
_SIGNATURE: Final = re.compile(r"Signature=[0-9a-f]+")
_UPLOAD_ID: Final = re.compile(rb"<UploadId>([^<]{1,256})</UploadId>")


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request, the seed of the identifiers that it made, and the upload id if it began a multipart upload."""

    request: ServiceRequest
    seed: int
    upload_id: str


def upload_id_of(request: ServiceRequest, body: bytes) -> str:
    """The id in the answer to CreateMultipartUpload, which a replay can't make again; empty for anything else."""
    if request.method != "POST" or "?uploads" not in request.target:
        return ""
    match = _UPLOAD_ID.search(body[:4_096])
    return match.group(1).decode() if match else ""


class RequestJournal:
    """The journal of moto's services in one folder."""

    def __init__(self, folder: Path, *, bytes_max: int = JOURNAL_BYTES_MAX) -> None:
        self._segments = SegmentFolder(folder, "services")
        self._bytes_max = bytes_max
        self._file: SegmentFile | None = None

    @property
    def is_full(self) -> bool:
        """Whether changing requests have to be refused."""
        return self._file is not None and self._file.bytes_written >= self._bytes_max

    def read(self) -> Iterator[KeptRequest]:
        """Every kept request in its order."""
        for _, entry in self._segments.read():
            try:
                (length,) = _HEAD.unpack_from(entry.payload)
                head = orjson.loads(entry.payload[_HEAD.size : _HEAD.size + length])
                request = ServiceRequest(
                    method=head["method"],
                    target=head["target"],
                    headers=tuple((name, value) for name, value in head["headers"]),
                    body=bytes(entry.payload[_HEAD.size + length :]),
                )
                kept = KeptRequest(request, head["seed"], head["upload_id"])
            except (KeyError, ValueError, TypeError, struct.error) as error:
                raise ConfigurationError(
                    f"a request kept in {self._segments.folder} can't be read: {error!r}",
                    hint="it was written by another version; start with another --data-dir",
                ) from error
            yield kept

    def start(self) -> None:
        """Go on writing behind what was read."""
        self._file = SegmentFile.open(self._segments.path(1))

    @staticmethod
    def keeps(request: ServiceRequest) -> bool:
        """Whether a request of this kind is kept."""
        return request.call.service not in _FORGETFUL and request.changes_something()

    def append(self, kept: KeptRequest) -> None:
        """Keep one request; signatures and session tokens are left out."""
        if self._file is None:
            raise OSError(0, "the journal is closed")
        headers = [
            (name, _SIGNATURE.sub("Signature=0", value) if name.lower() == "authorization" else value)
            for name, value in kept.request.headers
            if name.lower() not in _DROPPED_HEADERS
        ]
        head = orjson.dumps(
            {
                "method": kept.request.method,
                "target": kept.request.target,
                "headers": headers,
                "seed": kept.seed,
                "upload_id": kept.upload_id,
            }
        )
        self._file.append(_REQUEST, _HEAD.pack(len(head)) + head + kept.request.body)

    def close(self) -> None:
        """Flush to the device and close."""
        if self._file is not None:
            self._file.close()
            self._file = None
