"""Private images to the payload a client uploads."""
