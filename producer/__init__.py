"""Put web-server events into a Kinesis data stream: batched, ordered by partition key, accounted for."""
