"""Seeds that once broke a promise: each is run for good, and may find a planted bug that others miss."""

from __future__ import annotations

# Each stays here with what it found. What a seed means changes with the worlds, so
# that each of these is a test of its own, too, or a planted bug.
REGRESSIONS: dict[int, str] = {
    62000021: "a worker with a byte per second more than another one never got its part of the shards",
    61: "a process frozen at a call took an old answer for the end of a renamed file",
    166: "a log cut and grown while the reader waited for room in the buffer was read on inside a line",
    301: "a worker that lost a lease while it released it never took that shard again",
    734: "an hour that only a seek wrote into was never complete",
    745: "a record that killed nobody was condemned for the deaths that another shard's record had caused",
    1208: "a disk failing at a restart moved the bookmark to the beginning of the first file",
    2044: "a worker that died after the first row at LATEST left a parent that held its child up for ever",
    1992: "a log cut and grown past the reader's place while reads failed was read on inside a line",
    7001002: "a row that was made, taken and deleted between two syncs was begun anew by its own holder",
    7502916: "a repetition in one shard was taken for the first copy, which another had before it began at LATEST",
    7002436: "an empty rotated file that was removed before it was read hid the file that was rotated after it",
    11000341: "a worker that was ended while its destinations were away waited for each of them in turn",
    12000374: "a seek left a child that came, and was stored in part, while it was being planned",
    9200033: "an audit of columns without the country took two series of objects for one, and told of disorder",
    7500212: "a worker at LATEST left during the audit; its successor began too early: that one's clock was slow",
}
