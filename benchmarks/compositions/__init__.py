"""Compositions: what users put around a pipeline, each on two pipelines, with Foreseer attached."""
