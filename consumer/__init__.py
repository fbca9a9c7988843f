"""Read a Kinesis data stream, enrich each event, and deliver it to destination streams and S3."""
