"""Country of an IPv4 address, from a table of ranges that is held in memory."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from typing import Final

from shared.errors import ConfigurationError
from shared.limits import GZIP_RATIO_MAX, MIB

TABLE_BYTES_MAX: Final = 64 * MIB
RANGES_MAX: Final = 2_000_000
UNITED_STATES: Final = "USA"  # what the routing of the consumer calls it; all others keep their ISO 3166 code
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW_BITS: Final = 31
_COLUMNS: Final = 3
_ADDRESS_MAX: Final = 2**32 - 1
_DIGITS_MAX: Final = len(str(_ADDRESS_MAX))
_ADDRESS_BYTES_MAX: Final = len("255.255.255.255")
_OCTETS: Final = 4
_OCTET_MAX: Final = 255
_CODE_LETTERS: Final = 2


class CountryTable:
    """Sorted ranges, about 10 bytes each, searched by bisection."""

    def __init__(self, starts: array[int], ends: array[int], places: array[int], codes: tuple[str, ...]) -> None:
        self._starts = starts
        self._ends = ends
        self._places = places
        self._codes = codes

    def __len__(self) -> int:
        return len(self._starts)

    def country_of(self, address: bytes) -> str | None:
        """Return `USA` or the two-letter code of an IPv4 address in text; None for IPv6, names and unknown ranges."""
        number = parse_address(address)
        if number is None:
            return None
        index = bisect_right(self._starts, number) - 1
        if index < 0 or number > self._ends[index]:
            return None
        return self._codes[self._places[index]]

    @staticmethod
    def from_bytes(data: bytes) -> CountryTable:
        """Read `ip_from,ip_to,code` lines, addresses as integers, both ends included; gzip is recognised.

        Raises ConfigurationError with the line's number if a line is none of these or two ranges overlap.
        """
        rows = _read_rows(_inflate(data) if data.startswith(_GZIP_MAGIC) else data)
        rows.sort()
        starts, ends, places = array("I"), array("I"), array("H")
        codes: dict[str, int] = {}
        for start, end, code in rows:
            if ends and start <= ends[-1]:
                raise _unusable(f"the ranges from {ends[-1]:,} on overlap")
            starts.append(start)
            ends.append(end)
            places.append(codes.setdefault(code, len(codes)))
        return CountryTable(starts, ends, places, tuple(codes))


def _read_rows(data: bytes) -> list[tuple[int, int, str]]:
    if len(data) > TABLE_BYTES_MAX:
        raise _unusable(f"it has {len(data):,} bytes, more than {TABLE_BYTES_MAX:,}")
    if data.count(b"\n") > RANGES_MAX:
        raise _unusable(f"it has more than {RANGES_MAX:,} lines")
    rows: list[tuple[int, int, str]] = []
    for number, line in enumerate(data.replace(b'"', b"").split(b"\n"), start=1):
        cells = line.rstrip(b"\r").split(b",")
        if cells == [b""]:
            continue
        row = _read_row(cells)
        if row is None:
            raise _unusable(f"line {number:,} is not `ip_from,ip_to,code`")
        rows.append(row)
    if not rows:
        raise _unusable("it has no ranges")
    return rows


def _read_row(cells: list[bytes]) -> tuple[int, int, str] | None:
    if len(cells) != _COLUMNS:
        return None
    first, last, code = cells
    if not (first.isdigit() and last.isdigit() and max(len(first), len(last)) <= _DIGITS_MAX):
        return None
    start, end = int(first), int(last)
    if not (start <= end <= _ADDRESS_MAX and len(code) == _CODE_LETTERS and code.isalpha() and code.isupper()):
        return None
    return start, end, UNITED_STATES if code == b"US" else code.decode("ascii")


def parse_address(text: bytes) -> int | None:
    """Return a dotted IPv4 address as an integer; None for anything else."""
    if len(text) > _ADDRESS_BYTES_MAX:
        return None
    octets = text.split(b".")
    if len(octets) != _OCTETS:
        return None
    number = 0
    for octet in octets:
        if not octet.isdigit() or (value := int(octet)) > _OCTET_MAX:
            return None
        number = number << 8 | value
    return number


def _inflate(data: bytes) -> bytes:
    """Decompress one gzip member within bounds of size and ratio."""
    bytes_max = min(TABLE_BYTES_MAX, len(data) * GZIP_RATIO_MAX)
    inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        table = inflater.decompress(data, bytes_max)
    except zlib.error:
        raise _unusable("it starts like gzip and can't be decompressed") from None
    if inflater.unconsumed_tail:
        raise _unusable(f"it decompresses to more than {bytes_max:,} bytes")
    if not inflater.eof or inflater.unused_data:
        raise _unusable("it is gzip that was cut, or of several members")
    return table


def _unusable(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the country table is not usable: {what}",
        hint="It is a CSV of `ip_from,ip_to,code` with IPv4 addresses as integers and two-letter codes, plain or gzip",
    )
