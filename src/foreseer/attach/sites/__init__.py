"""Where in the network a feature is taken: one file per site."""
