"""The package as it is built and installed, and the files of its repository."""
