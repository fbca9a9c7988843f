"""The producer's dead letters: lines that can't become events, kept with their bytes, place and reason."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import orjson

from producer.core.line_framer import OverlongLine
from shared.errors import SourceError
from shared.ports import Clock, Files

OVERLONG_LINE = "overlong-line"


class DeadLetters:
    """Appends to `dead-letters.ndjson`; `flush` makes what was added durable before a bookmark may pass it."""

    def __init__(self, files: Files, clock: Clock, state_dir: str, name: str) -> None:
        self.path = f"{state_dir}/dead-letters.ndjson"
        self.count = 0
        self._files = files
        self._clock = clock
        self._name = name
        self._waiting: list[bytes] = []
        self._is_torn: bool | None = None  # whether the file ends inside a line; None: not looked yet

    def add(self, offset: int, error_code: str, error_message: str, raw: bytes) -> None:
        """Keep a rejected line, whole."""
        self._add(offset, error_code, error_message, raw, len(raw))

    def add_overlong(self, line: OverlongLine, line_bytes_max: int) -> None:
        """Keep the head of a line that was too long to be read, and its length."""
        message = f"the line has {line.length:,} bytes, more than {line_bytes_max:,}"
        self._add(line.offset, OVERLONG_LINE, message, line.head, line.length)

    def _add(self, offset: int, error_code: str, error_message: str, raw: bytes, length: int) -> None:
        self.count += 1
        self._waiting.append(
            orjson.dumps(
                {
                    "file": self._name.encode(errors="replace").decode(),
                    "offset": offset,
                    "error_code": error_code,
                    "error_message": error_message,
                    "attempts": 1,
                    "arrival": datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(),
                    "raw_length": length,
                    "raw_data": base64.b64encode(raw).decode(),
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
        )

    async def flush(self) -> None:
        """Append what waits, durably; SourceError if the disk does not take it (it keeps waiting)."""
        waiting = len(self._waiting)  # receipts may add more while the disk works
        if not waiting:
            return
        try:
            # An append that failed, in this process or in one before it, leaves a part of a line: the newline ends it.
            if self._is_torn is None:
                self._is_torn = await self._ends_inside_line()
            data = (b"\n" if self._is_torn else b"") + b"".join(self._waiting)
            await self._files.append(self.path, data, durable=True)
        except OSError as error:
            self._is_torn = True
            raise SourceError(
                f"dead letters can't be written to {self.path}: {error.strerror or error}",
                hint="Free some space or choose another folder with --state-dir; nothing is lost, start again then",
            ) from error
        self._is_torn = False
        del self._waiting[:waiting]

    async def _ends_inside_line(self) -> bool:
        identity = await self._files.identify(self.path)
        if identity is None or not identity.size:
            return False
        file = await self._files.open(self.path)
        try:
            return await file.read_at(identity.size - 1, 1) != b"\n"
        finally:
            await file.close()
