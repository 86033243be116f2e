"""A user's labelled images, whatever they are stored in."""
