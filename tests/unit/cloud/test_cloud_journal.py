"""What the journals keep survives a restart, torn tails and full disks; what is old goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.reading import StartingPosition
from infra.cloud.core.writing import PutEntry
from infra.cloud.kinesis_journal import KinesisJournal
from infra.cloud.segment_file import FolderLock, SegmentFile, SegmentFolder, read_entries
from shared.errors import ConfigurationError
from tests.support.cloud_clock import HandClock


def opened(folder: Path, clock: HandClock, segment_bytes: int = 1 << 20) -> tuple[KinesisEngine, KinesisJournal]:
    """An engine over a folder, as the server builds it."""
    journal = KinesisJournal(folder, segment_bytes=segment_bytes)
    engine = KinesisEngine(clock, limits_enforced=False, journal=journal)
    for each in journal.reload():
        engine.restore(each.state, each.logs)
    journal.start(engine.states)
    return engine, journal


def contents(engine: KinesisEngine, name: str = "s") -> list[tuple[str, str, str, bytes, float]]:
    """Everything that a reader can see of a stream."""
    found = []
    for shard in engine.list_shards(name).shards:
        page = engine.get_records(engine.get_shard_iterator(name, shard.shard_id, StartingPosition("TRIM_HORIZON")))
        found += [(shard.shard_id, r.sequence_number, r.partition_key, r.data, r.arrival) for r in page.records]
    return found


def test_restart_brings_back_records_shards_and_settings(tmp_path: Path) -> None:
    """After a reload a reader sees the same records with the same numbers, and new ones go on above them."""
    clock = HandClock()
    engine, journal = opened(tmp_path, clock)
    engine.create_stream("s", 2, tags={"a": "b"})
    engine.create_stream("gone", 1)
    engine.put_records("s", [PutEntry(str(n).encode(), f"ключ-{n}") for n in range(100)])
    engine.update_shard_count("s", 3)
    engine.put_records("s", [PutEntry(b"later", str(n)) for n in range(50)])
    engine.put_record("gone", b"x", "k")
    engine.delete_stream("gone")
    engine.consumers.register(engine.describe_stream("s").arn, "c")
    iterator = engine.get_shard_iterator("s", "0", StartingPosition("TRIM_HORIZON"))
    before, states = contents(engine), list(engine.states())
    journal.close()
    for _ in range(2):
        engine, journal = opened(tmp_path, clock)
        assert contents(engine) == before
        assert list(engine.states()) == states
        assert engine.list_stream_names() == ["s"]
        assert engine.get_records(iterator).records != []
        journal.close()
    engine, journal = opened(tmp_path, clock)
    outcome = engine.put_record("s", b"", "k", str(2**128 - 1))
    highest = max(int(each[1]) for each in before if each[0] == outcome.shard_id)
    assert int(outcome.sequence_number or 0) > highest
    journal.close()


def test_torn_tail_is_cut_off(tmp_path: Path) -> None:
    """A last entry that was half written is dropped; what was whole before it stays, and writing goes on."""
    clock = HandClock()
    engine, journal = opened(tmp_path, clock)
    engine.create_stream("s", 1)
    engine.put_record("s", b"whole", "k")
    journal.close()
    path = SegmentFolder(tmp_path, "kinesis").path(1)
    whole = path.read_bytes()
    ends = [end for _, end in read_entries(path)]
    for cut in (1, 5, 20):
        path.write_bytes(whole + whole[ends[-2] : ends[-1] - cut])
        for number in SegmentFolder(tmp_path, "kinesis").numbers()[1:]:
            SegmentFolder(tmp_path, "kinesis").path(number).unlink()
        engine, journal = opened(tmp_path, clock)
        assert [each[3] for each in contents(engine)] == [b"whole"]
        journal.close()
        assert path.read_bytes() == whole


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    """A damaged entry in any file but the last is an error that names the file, never silent loss."""
    clock = HandClock()
    engine, journal = opened(tmp_path, clock)
    engine.create_stream("s", 1)
    journal.close()
    opened(tmp_path, clock)[1].close()
    path = SegmentFolder(tmp_path, "kinesis").path(1)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ConfigurationError, match=r"kinesis-00000001\.log is damaged at byte"):
        opened(tmp_path, clock)


def test_old_segments_go_with_their_records(tmp_path: Path) -> None:
    """Segments whose records retention has passed by are deleted; what is younger can still be read back."""
    clock = HandClock()
    engine, journal = opened(tmp_path, clock, segment_bytes=4_000)
    engine.create_stream("s", 1)
    for number in range(10):
        engine.put_record("s", bytes([number]) * 1_000, "k")
        clock.turn(3_600)
    folder = SegmentFolder(tmp_path, "kinesis")
    assert len(folder.numbers()) > 2
    clock.turn(18 * 3_600 + 1)
    journal.drop_expired(clock())
    assert folder.numbers()[0] > 1
    before = contents(engine)
    assert [each[3][0] for each in before] == [5, 6, 7, 8, 9]
    journal.close()
    engine, journal = opened(tmp_path, clock)
    assert contents(engine) == before
    clock.turn(24 * 3_600)
    journal.drop_expired(clock())
    assert len(folder.numbers()) == 1
    journal.close()


def test_full_disk_refuses_the_put_and_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the journal can't be written, the call fails, no reader sees its records, and the file stays whole."""
    clock = HandClock()
    engine, journal = opened(tmp_path, clock)
    engine.create_stream("s", 1)
    engine.put_record("s", b"kept", "k")
    real_write = os.write

    def half_written(fd: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real_write(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("infra.cloud.segment_file.os.write", half_written)
        with pytest.raises(ApiError, match=r"InternalFailure.*No space left"):
            engine.put_record("s", b"refused", "k")
    engine.put_record("s", b"kept too", "k")
    journal.close()
    engine, journal = opened(tmp_path, clock)
    assert [each[3] for each in contents(engine)] == [b"kept", b"kept too"]
    journal.close()


def test_folder_is_locked_against_a_second_server(tmp_path: Path) -> None:
    """Two servers can't share a folder; after the first lets go the second may have it."""
    first = FolderLock(tmp_path / "new" / "folder")
    with pytest.raises(ConfigurationError, match="in use by another local cloud"):
        FolderLock(tmp_path / "new" / "folder")
    first.release()
    FolderLock(tmp_path / "new" / "folder").release()


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A data folder that can't be one is a configuration error with a hint."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="can't be used") as caught:
        FolderLock(tmp_path / "file")
    assert "--data-dir" in caught.value.hint


def test_announced_length_does_not_make_the_reader_allocate(tmp_path: Path) -> None:
    """A header that announces more than the file holds ends the reading, whatever it says."""
    path = tmp_path / "kinesis-00000001.log"
    path.write_bytes(b"\xff" * 64)
    assert list(read_entries(path)) == []
    SegmentFile.open(path, valid_bytes=0).close()
    assert path.read_bytes() == b""
