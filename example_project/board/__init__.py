"""A live board of whatever is published under `metrics.`."""
