"""Whether a generator can draw a client's images, told before the client joins: in memory, leaving nothing behind."""
