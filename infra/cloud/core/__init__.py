"""The decisions of the local Kinesis, without I/O: streams, shards, limits, iterators; time comes in as a clock."""
