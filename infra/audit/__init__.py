"""The audit: was anything lost, duplicated or put out of order between the source stream and where events end up."""
