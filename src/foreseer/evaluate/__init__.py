"""How fast, and how close: measures, timed runs, comparisons and their reports."""
