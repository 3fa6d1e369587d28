"""What gates measure inside a network before they decide."""
