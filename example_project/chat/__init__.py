"""A small chat with rooms, on the layer's groups."""
