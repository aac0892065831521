"""The way in, and what all pages share."""
