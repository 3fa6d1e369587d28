"""Upstream's tiny fixture of every diffusers pipeline, with Foreseer attached."""
