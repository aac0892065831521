"""Several rooms on one page, each a plain Redis channel."""
