"""Serving a pipeline with Ray Serve."""
