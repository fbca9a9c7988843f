"""Fuzzers of what is read from the disk again after a crash: the files of a spill."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from producer.core.spill_frame import (
    FILE_HEAD_BYTES,
    FRAME_BYTES_MAX,
    FileHead,
    decode_head,
    decode_records,
    encode_head,
    encode_record,
)
from shared.limits import HASH_KEY_MAX
from tests.fuzz.mutation import fuzzed, mutated

FRAMES: Final = (
    encode_record(b"one", "a", None)
    + encode_record(b"", "b" * 256, 0)
    + encode_record(b"\0" * 40, "é😀", HASH_KEY_MAX),
    encode_record(b'{"session_id":"a1"}', "a1", None) * 3,
    encode_record(b"x" * 3000, "k", 7),
    b"",
)
HEADS: Final = (encode_head(FileHead(1)), encode_head(FileHead(2**64 - 1, 2**64 - 2, 3000)), b"hrspill2", b"")


@fuzzed
@given(mutated(FRAMES))
def test_any_spilled_bytes_are_whole_frames_then_an_end_or_damage(data: bytes) -> None:
    """What is read is, written again, what was there; only a torn end that may yet be a frame is not damage."""
    records, is_damaged = decode_records(data)
    written = b"".join(encode_record(each.data, each.partition_key, each.explicit_hash_key) for each in records)
    end = records[-1].end if records else 0
    assert data[:end] == written
    if not is_damaged:
        assert len(data) - end < FRAME_BYTES_MAX
    assert decode_records(data[end:]) == ([], is_damaged)


@fuzzed
@given(st.sampled_from(FRAMES[:3]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_no_damaged_byte_is_read_as_a_record(frames: bytes, place: float, flip: int) -> None:
    """A byte that changed on the disk ends the reading before its frame; what came before is read as it was."""
    whole, _ = decode_records(frames)
    at = int(place * len(frames))
    damaged = frames[:at] + bytes([frames[at] ^ flip]) + frames[at + 1 :]
    assert decode_records(damaged)[0] == [each for each in whole if each.end <= at]


@fuzzed
@given(mutated(HEADS))
def test_any_head_of_a_spill_file_is_read_as_written_or_not_at_all(data: bytes) -> None:
    """Only what `encode_head` writes is a head."""
    head = decode_head(data)
    if head is not None:
        assert len(data) == FILE_HEAD_BYTES
        assert encode_head(head) == data
