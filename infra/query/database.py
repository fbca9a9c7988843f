"""The archive as SQL views in an in-memory DuckDB that can read the given files and nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from infra.query.archive_object import ArchiveObject
from infra.query.content import HINT, Content, Kind, content_of
from infra.query.odd_events import OddEvents
from shared.errors import ConfigurationError, QueryError, SourceError
from shared.limits import MIB

EVENTS_VIEW: Final = "events"
DEAD_LETTERS_VIEW: Final = "dead_letters"
# What the two fixed views have while there is no object yet, so that a scheduled query finds zero rows, not an error.
_EMPTY_COLUMNS: Final = {
    EVENTS_VIEW: ("event_id", "session_id", "country", "processing_timestamp", "destination", "dt", "hour"),
    DEAD_LETTERS_VIEW: ("errorCode", "errorMessage", "arrivalTimestamp", "rawData", "dt", "hour"),
}
_ROWS_PER_PAGE: Final = 1_000
# An event has at most 10 MiB before it is enriched; one that is written anew then has up to four times as many (`1e15`
# becomes 1000000000000000.0), as has a cell with quotes or such numbers.
_LINE_BYTES_MAX: Final = 64 * MIB

_WHOLE_EVENT: Final = "json"  # the column's name
_NO_MAPS: Final = "map_inference_threshold = -1"  # else an event of many names makes all of them one column

_PATTERN: Final = re.compile(r"[*?\[]")
_READERS: Final = {
    Kind.JSON: (
        "read_json(FILES, compression = 'CODEC', union_by_name = true, hive_partitioning = true,"
        " format = 'newline_delimited', sample_size = -1, maximum_sample_files = 1000000,"
        f" maximum_object_size = {_LINE_BYTES_MAX})"
    ),
    Kind.CSV: (
        "read_csv(FILES, compression = 'CODEC', union_by_name = true, hive_partitioning = true,"
        f" header = true, sample_size = -1, max_line_size = {_LINE_BYTES_MAX})"
    ),
    Kind.PARQUET: "read_parquet(FILES, union_by_name = true, hive_partitioning = true)",
}


class Database:
    """Views `events` (all destinations), one per destination, and `dead_letters`, over files below `folder`.

    ConfigurationError if DuckDB is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import duckdb  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigurationError(
                "`headrace query` needs DuckDB, which is not installed", hint="Install the extra: headrace[query]"
            ) from error
        self._error = duckdb.Error
        self._connection = duckdb.connect(":memory:")
        self._folder = folder
        self._plain_folder = TemporaryDirectory(prefix="headrace-query-plain-")
        self._plain: dict[str, Path] = {}  # by key, copies that are read in the place of objects
        self._readers: Mapping[Kind, str] = _READERS
        self.views: tuple[str, ...] = ()

    def close(self) -> None:
        """Give the memory and the disk back."""
        self._connection.close()
        self._plain_folder.cleanup()

    def show(self, archived: Sequence[ArchiveObject], dead_letters: Sequence[ArchiveObject]) -> None:
        """Make the views, then shut the database off from everything but the folder and from its own settings.

        QueryError if a file is damaged, SourceError if that shows in its first bytes.
        """
        views = {EVENTS_VIEW: list(archived), DEAD_LETTERS_VIEW: list(dead_letters)}
        names = {name: name for name in views}  # DuckDB sees no case: those that differ in nothing else share a view
        for each in archived:
            if each.destination is not None:
                name = names.setdefault(each.destination.lower(), each.destination)
                if name not in {EVENTS_VIEW, DEAD_LETTERS_VIEW}:
                    views.setdefault(name, []).append(each)
        contents = {each.key: content_of(self._folder / each.key, each.key) for each in (*archived, *dead_letters)}
        try:
            if not self._is_plain(views, contents):
                self._rewrite(contents)
                self._make_views(views, contents)
            allowed = [
                _quoted(text)
                for folder in (self._folder, Path(self._plain_folder.name))
                for text in (str(folder), _literal(folder))
            ]
            self._connection.execute(f"SET allowed_directories = [{', '.join(allowed)}]")
            self._connection.execute("SET enable_external_access = false")
            self._connection.execute("SET lock_configuration = true")
        except self._error as error:
            raise self._unreadable(contents, error) from error
        self.views = tuple(views)

    def _is_plain(self, views: Mapping[str, Sequence[ArchiveObject]], contents: Mapping[str, Content]) -> bool:
        """Make the views; return whether every event can be read. One that can't would end a query in its middle."""
        try:
            self._make_views(views, contents)
            # Where names make no columns (an empty one, or very many), DuckDB shows whole events as one.
            asked = "SELECT count(*) FROM duckdb_columns() WHERE column_name = ? AND table_name IN (?, ?)"
            found = self._connection.execute(asked, (_WHOLE_EVENT, EVENTS_VIEW, DEAD_LETTERS_VIEW)).fetchone()
            if found != (0,):
                return False
            for name in (EVENTS_VIEW, DEAD_LETTERS_VIEW):
                if any(contents[each.key].kind is Kind.JSON for each in views[name]):
                    self._connection.execute(f"SELECT max(hash(COLUMNS(*))) FROM {name}").fetchall()  # noqa: S608 - ours
        except self._error:
            return False  # what it is, a damaged object perhaps, shows again when nothing is odd any more
        return True

    def _rewrite(self, contents: Mapping[str, Content]) -> None:
        """Put copies in the place of objects that hold odd events. SourceError if the disk doesn't take them."""
        odd = OddEvents(_LINE_BYTES_MAX)
        for key, content in contents.items():
            target = Path(self._plain_folder.name) / key
            try:
                if content.kind is Kind.JSON and odd.rewrite(self._folder / key, content, target):
                    self._plain[key] = target
            except OSError as error:
                raise SourceError(
                    f"object `{key}` can't be written anew in `{self._plain_folder.name}`: {error.strerror}",
                    hint="TMPDIR names another folder for such copies",
                ) from error
        self._readers = _READERS | {Kind.JSON: _READERS[Kind.JSON].replace("(FILES", f"(FILES, {_NO_MAPS}")}

    def _make_views(self, views: Mapping[str, Sequence[ArchiveObject]], contents: Mapping[str, Content]) -> None:
        for name, objects in views.items():
            readers = ["FROM " + self._reader(content, paths) for content, paths in self._parts(objects, contents)]
            if not readers:
                columns = ", ".join(f'NULL::VARCHAR AS "{column}"' for column in _EMPTY_COLUMNS[name])
                readers.append(f"(SELECT {columns} WHERE false)")
            quoted = name.replace('"', '""')
            self._connection.execute(f'CREATE OR REPLACE VIEW "{quoted}" AS {" UNION ALL BY NAME ".join(readers)}')

    def _parts(
        self, objects: Sequence[ArchiveObject], contents: Mapping[str, Content]
    ) -> Iterator[tuple[Content, list[Path]]]:
        """Yield the files that one reader can read together."""
        files: defaultdict[tuple[Content, tuple[str, ...]], list[Path]] = defaultdict(list)
        for each in objects:
            plain = self._plain.get(each.key)
            content = contents[each.key] if plain is None else Content(Kind.JSON, "none")
            files[content, _partitions(each.key)].append(plain or self._folder / each.key)
        for (content, _), paths in files.items():
            yield content, paths

    def _unreadable(self, contents: Mapping[str, Content], error: Exception) -> QueryError:
        """Say which file it is: the first one that can't be read alone; DuckDB does not always name it."""
        for key, content in contents.items():
            try:
                self._connection.execute(
                    "CREATE TEMP VIEW probe AS FROM " + self._reader(content, [self._folder / key])
                )
            except self._error as alone:
                return QueryError(f"The archive can't be read: object `{key}`: {self._reason(alone)}", hint=HINT)
            self._connection.execute("DROP VIEW probe")
        return QueryError(
            f"The archive can't be read: {self._reason(error)}",
            hint="Each object can be read alone: ask for fewer hours with --since and --until",
        )

    def _reason(self, error: Exception) -> str:
        """Return DuckDB's words, with keys in the place of paths of copies, which are gone afterwards."""
        return _first_line(error).replace(f"{self._folder}/", "").replace(f"{self._plain_folder.name}/", "")

    def _reader(self, content: Content, paths: Sequence[Path]) -> str:
        """Return the call of DuckDB's that reads files of one kind."""
        files = ", ".join(_quoted(_literal(path)) for path in paths)
        return self._readers[content.kind].replace("CODEC", content.compression).replace("FILES", f"[{files}]", 1)

    def run(self, sql: str) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Run a query; return the names of its columns and its rows. QueryError for what SQL or data do not allow."""
        try:
            cursor = self._connection.execute(sql)
            if cursor is None:  # as for an empty text, or a comment
                raise QueryError("The query holds no statement", hint="E.g. SELECT count(*) FROM events")
            names = tuple(str(each[0]) for each in cursor.description or ())
        except self._error as error:
            raise self._failed(error) from error
        return names, self._rows(cursor)

    def _rows(self, cursor: Any) -> Iterator[tuple[Any, ...]]:
        while True:
            try:
                rows = cursor.fetchmany(_ROWS_PER_PAGE)
            except self._error as error:
                raise self._failed(error) from error
            if not rows:
                return
            yield from rows

    def _failed(self, error: Exception) -> QueryError:
        views = ", ".join(f'"{each}"' for each in self.views)
        return QueryError(f"The query failed: {self._reason(error)}", hint=f"The views are {views}")


def _literal(path: Path) -> str:
    """Return the pattern that matches a path alone: DuckDB takes every path for one."""
    return _PATTERN.sub(r"[\g<0>]", str(path))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _partitions(key: str) -> tuple[str, ...]:
    """Return the names of a key's partitions; DuckDB refuses files together of which some have others."""
    return tuple(sorted({folder.partition("=")[0] for folder in key.split("/")[:-1] if "=" in folder}))


def _first_line(error: Exception) -> str:
    with suppress(StopIteration):
        return next(line for line in str(error).splitlines() if line.strip())[:500]
    return type(error).__name__
