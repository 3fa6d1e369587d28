"""What a network is made of, found by watching one forward pass; no class names decide."""
