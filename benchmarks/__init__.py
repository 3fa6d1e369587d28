"""Timings and memory; see README.md for how each figure is obtained."""
