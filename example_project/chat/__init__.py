"""A small chat with rooms."""
