"""What a bench runs.

``base`` holds the abstract ``Entry`` and its plain kinds; ``tune_gates`` finds the threshold of a gate that meets a
budget.
"""
