"""What the pages quote of the benchmarks."""
