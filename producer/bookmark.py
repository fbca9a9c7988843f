"""The bookmark of a followed file: from where a restart has to read again, and under which event ids."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import orjson

from producer.former_run import FormerRun
from shared.errors import ConfigurationError
from shared.lanes import LANES, LaneDivision
from shared.limits import MIB
from shared.ports import FileIdentity, Files
from shared.settings import Ordering

FINGERPRINT_BYTES_MAX: Final = 256
_VERSION: Final = 1
_CUT_VERSION: Final = 3  # of a source that has cut lanes, whose events a release of before would give other ids
_BYTES_MAX: Final = 256 * MIB  # the parser's sessions are in it
_FILES_MAX: Final = 10_000
_SOURCE: Final = re.compile(r"[a-z0-9-]{1,28}")


@dataclass(frozen=True, slots=True)
class FileMark:
    """A file that was, or is being, read: `fingerprint` is its first 256 bytes, fewer while it was shorter."""

    generation: int
    device: int
    inode: int
    fingerprint: bytes = b""

    def is_of(self, identity: FileIdentity) -> bool:
        """Whether a file has this device and inode (which the system uses again for later files)."""
        return (self.device, self.inode) == (identity.device, identity.inode)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything before `offset` of the file of `generation`, and all earlier files, is acknowledged.

    `source` names the source in event ids, followed by the generation. `state` is the parser's snapshot at `offset`.
    `files` are those of `generation` and later: a restart gives a file it finds there the generation it had, so that
    its events get the ids they had, and so do how lanes are cut, None until it is known, and the `ordering`, None in a
    bookmark of before. A file is written here before its first event is sent.
    """

    source: str
    generation: int = 0
    offset: int = 0
    state: bytes = b""
    files: tuple[FileMark, ...] = ()
    lanes: LaneDivision | None = None
    ordering: Ordering | None = None

    def file(self, generation: int) -> FileMark | None:
        """Return the file of a generation."""
        return next((each for each in self.files if each.generation == generation), None)

    @property
    def next_generation(self) -> int:
        """A generation that no file has had."""
        return max((each.generation for each in self.files), default=self.generation - 1) + 1

    def generation_of(self, identity: FileIdentity, head: bytes, *, after: int) -> int:
        """Return the generation that a file with these first bytes had before a restart, or a new one."""
        known = [each for each in self.files if each.is_of(identity) and head.startswith(each.fingerprint)]
        later = (each.generation for each in known if each.generation > after)
        return max(later, default=self.next_generation)

    def with_file(self, mark: FileMark) -> Bookmark:
        """Return the bookmark with this file added, or its entry replaced."""
        others = tuple(each for each in self.files if each.generation != mark.generation)
        return replace(self, files=(*others, mark))

    def at(self, generation: int, offset: int, state: bytes, lanes: LaneDivision | None = None) -> Bookmark:
        """Return the bookmark moved on, with lanes cut so from there on; files before `generation` are forgotten."""
        kept = tuple(each for each in self.files if each.generation >= generation)
        lanes = self.lanes if lanes is None else lanes
        return replace(self, generation=generation, offset=offset, state=state, files=kept, lanes=lanes)

    def encode(self) -> bytes:
        """Return the stored form: JSON."""
        return orjson.dumps(
            {
                "version": _CUT_VERSION if self.lanes and self.lanes.cuts else _VERSION,
                "source": self.source,
                "lanes": 0 if self.lanes is None else LANES,
                "cuts": [] if self.lanes is None else [f"{cut:x}" for cut in self.lanes.cuts],
                "ordering": None if self.ordering is None else self.ordering.value,
                "generation": self.generation,
                "offset": self.offset,
                "state": base64.b64encode(self.state).decode(),
                "files": [[each.generation, each.device, each.inode, each.fingerprint.hex()] for each in self.files],
            }
        )

    @classmethod
    def decode(cls, data: bytes, path: str) -> Bookmark:
        """Read the stored form; ConfigurationError if it is anything else."""
        try:
            return cls._from_mapping(orjson.loads(data))
        except (ValueError, TypeError, KeyError, binascii.Error) as error:
            message = f"the bookmark {path} is damaged or of another version"
            hint = "Delete it to read the file from its beginning; the events will count as new ones"
            raise ConfigurationError(message, hint=hint) from error

    @classmethod
    def _from_mapping(cls, stored: dict[str, Any]) -> Bookmark:
        files = tuple(
            FileMark(_number(generation), _number(device), _number(inode), bytes.fromhex(fingerprint))
            for generation, device, inode, fingerprint in stored["files"][:_FILES_MAX]
        )
        if stored["version"] not in {_VERSION, _CUT_VERSION} or not _SOURCE.fullmatch(stored["source"]):
            msg = "version or source"
            raise ValueError(msg)
        state = base64.b64decode(stored["state"], validate=True)
        if stored.get("lanes", LANES) not in {0, LANES}:
            msg = "lanes"
            raise ValueError(msg)
        is_divided = stored.get("lanes", LANES) > 0
        lanes = LaneDivision(tuple(int(cut, 16) for cut in stored.get("cuts", ()))) if is_divided else None
        generation, offset = _number(stored["generation"]), _number(stored["offset"])
        ordering = None if stored.get("ordering") is None else Ordering(stored["ordering"])
        return cls(stored["source"], generation, offset, state, files, lanes, ordering)


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        msg = "not a number"
        raise ValueError(msg)
    return value


class Bookmarks(Protocol):
    """Where a followed file keeps its place."""

    former: FormerRun

    async def move_bookmark(
        self, generation: int, offset: int, state: bytes, lanes: LaneDivision | None = None
    ) -> bool:
        """Store a place durably, and how lanes are cut from there on; False if not: nothing is to be forgotten."""
        ...


class BookmarkStore:
    """Keeps one bookmark in one file, replaced atomically."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.path = path

    async def load(self) -> Bookmark | None:
        """Read the bookmark; None if there is none yet. Raises ConfigurationError and OSError."""
        data = await self._files.read_all(self.path, _BYTES_MAX)
        return None if data is None else Bookmark.decode(data, self.path)

    async def holds(self, bookmark: Bookmark) -> bool:
        """Whether a restart would go by this bookmark, whose `save` has failed, perhaps in its last step."""
        with suppress(OSError, ConfigurationError):
            return await self.load() == bookmark
        return False

    async def save(self, bookmark: Bookmark) -> None:
        """Replace the bookmark durably. Raises OSError."""
        await self._files.write_atomically(self.path, bookmark.encode())


def bookmark_path(state_dir: str, stream: str, path: str) -> str:
    """Return where the bookmark of a followed file lies; `path` is absolute. Each stream has its own."""
    digest = hashlib.sha256(f"{stream}\0{path}".encode(errors="surrogateescape")).hexdigest()[:24]
    return f"{state_dir}/bookmarks/{digest}.json"
