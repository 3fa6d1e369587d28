"""A server of pictures: one pipeline, one thread that draws several pictures side by side, one queue."""
