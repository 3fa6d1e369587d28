"""A server of pictures: one attached pipeline, one worker, one queue."""
