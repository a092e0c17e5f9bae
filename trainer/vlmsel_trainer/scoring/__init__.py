"""Perplexity of image-text pairs under a vision-language model: `vlmsel.score` is the door, `run.score` the engine behind it, docs/scoring.md the manual.

One room, one direction: an index is read (`index`, `records`), samples become tokens (`conversations`, `template`, `encoding`) and pictures
(`images`), rows are prepared ahead (`samples`, `ahead`) within a budget of bytes (`memory`), laid side by side (`batches`), scored (`scorer`, `nll`) and
written (`table`). Only `model` knows how a folder is loaded.
"""
