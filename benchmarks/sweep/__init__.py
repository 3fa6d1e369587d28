"""Runs upstream's own tiny fixture of every diffusers pipeline with Foreseer attached; see ``__main__``."""
