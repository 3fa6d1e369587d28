"""Hosts: programs that run the network themselves.

Each file translates one host's calls to those of `fs.Run`.
"""
