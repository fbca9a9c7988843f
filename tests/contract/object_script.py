"""Random scripts for the bucket: writes that may or may not overwrite, reads, listings of several pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from shared.limits import S3_KEY_BYTES_MAX
from shared.ports import ObjectStore
from tests.contract.answer import answer_of
from tests.contract.sites import Site

STEPS: Final = 20
_FOLDERS: Final = ("", "raw/", "raw/year=2026/", "raw-2/", "ünï cöde/", "a+b%2F/")
_NAMES: Final = ("a", "b.gz", "B", "c d", "~", "😀", "x=1&y=2", "'quoted\"", "-", "0")


@dataclass(frozen=True, slots=True)
class Write:
    """Put an object."""

    key: str
    body: bytes
    content_type: str
    content_encoding: str
    only_if_absent: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read an object."""

    key: str


@dataclass(frozen=True, slots=True)
class Walk:
    """List the keys below a prefix."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Inspect:
    """Look at the content type and encoding of an object that exists."""

    key: str


ObjectStep = Write | Fetch | Walk | Inspect


@dataclass(slots=True)
class ObjectScript:
    """A script over a few keys, so that they collide."""

    random: Random
    steps: list[ObjectStep] = field(init=False, default_factory=list)
    _written: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        names = self.random.sample(_NAMES, 4)
        self._keys = [folder + name for folder in self.random.sample(_FOLDERS, 3) for name in names]
        for _ in range(STEPS):
            self.random.choices((self._write, self._fetch, self._walk, self._inspect), (50, 20, 20, 10))[0]()
        self.steps += [Walk(""), *(Fetch(key) for key in sorted(set(self._written)))]

    _keys: list[str] = field(init=False, default_factory=list)

    def _write(self) -> None:
        key = self.random.choice(self._keys)
        if self.random.random() < 0.08:
            key = self.random.choice(("", "k" * S3_KEY_BYTES_MAX, "ü" * (S3_KEY_BYTES_MAX // 2 + 1)))
        if 1 <= len(key.encode()) <= S3_KEY_BYTES_MAX:
            self._written.append(key)
        self.steps.append(
            Write(
                key,
                self.random.randbytes(self.random.choice((0, 1, 300))),
                self.random.choice(("application/json", "application/x-ndjson")),
                self.random.choice(("", "gzip")),
                only_if_absent=self.random.random() < 0.6,
            )
        )

    def _fetch(self) -> None:
        self.steps.append(Fetch(self.random.choice((*self._keys, "never/written", ""))))

    def _walk(self) -> None:
        self.steps.append(Walk(self.random.choice((*_FOLDERS, "raw", "r", "nothing/here/", *self._keys[:3]))))

    def _inspect(self) -> None:
        if self._written:
            self.steps.append(Inspect(self.random.choice(self._written)))


async def run_objects(site: Site, port: ObjectStore, bucket: str, steps: list[ObjectStep]) -> list[Any]:
    """Take every step at a bucket; an answer for each."""
    return [await answer_of(lambda step=step: _take(site, port, bucket, step)) for step in steps]  # type: ignore[misc]


async def _take(site: Site, port: ObjectStore, bucket: str, step: ObjectStep) -> Any:
    match step:
        case Write():
            return await port.put_object(
                step.key,
                step.body,
                content_type=step.content_type,
                content_encoding=step.content_encoding,
                only_if_absent=step.only_if_absent,
            )
        case Fetch():
            return await port.get_object(step.key)
        case Walk():
            return [(each.key, each.size) async for each in port.list_objects(step.prefix)]
        case Inspect():
            return await site.describe_object(bucket, step.key)
