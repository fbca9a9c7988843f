"""The sample as files: the log, compressed, and the country table of its networks."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

from infra.sample.generator import LINES, SEED, lines
from infra.sample.shop import country_table
from shared.limits import MIB

FOLDER: Final = Path(__file__).parent
LOG_NAME: Final = "web-access.log.gz"
COUNTRIES_NAME: Final = "countries.csv"
LOG_PATH: Final = FOLDER / LOG_NAME
COUNTRIES_PATH: Final = FOLDER / COUNTRIES_NAME
_LOG_BYTES_MAX: Final = 16 * MIB
_GZIP_WINDOW_BITS: Final = 31


def log_bytes() -> bytes:
    """Return the log as the generator makes it, uncompressed."""
    return "".join(f"{line}\n" for line in lines(SEED, LINES)).encode("latin-1")


def write_files(folder: Path) -> None:
    """Write both files; the same bytes on every run with the same zlib, as no time is stored."""
    (folder / LOG_NAME).write_bytes(gzip.compress(log_bytes(), compresslevel=9, mtime=0))
    (folder / COUNTRIES_NAME).write_text(country_table(), encoding="ascii", newline="\n")


def differing_files(folder: Path) -> list[str]:
    """Return the names of the files whose content is not what would be written; a missing file differs.

    Compared decompressed, as different builds of zlib compress to different bytes.
    """
    differing: list[str] = []
    log = _read(folder / LOG_NAME)
    if log is None or _inflate(log) != log_bytes():
        differing.append(LOG_NAME)
    if _read(folder / COUNTRIES_NAME) != country_table().encode("ascii"):
        differing.append(COUNTRIES_NAME)
    return differing


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _inflate(data: bytes) -> bytes | None:
    try:
        return zlib.decompressobj(_GZIP_WINDOW_BITS).decompress(data, _LOG_BYTES_MAX)
    except zlib.error:
        return None
