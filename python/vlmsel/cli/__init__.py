"""The command line: one module per command, and beside them what all commands share.

A command parses, calls the public API and reports; it decides nothing about data. ``vlmsel --help`` imports none of them.
"""
