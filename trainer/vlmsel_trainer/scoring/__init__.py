"""Perplexity of image-text pairs under a vision-language model: `vlmsel.score` is the door, `run.score` the engine behind it, docs/scoring.md the manual.

`vlmsel_trainer.vlm` makes rows of an index ready for a model and lays them side by side; here they are scored (`scorer`, `nll`), failures are
held against what is tolerated (`tolerance`), and scores are written unit by unit (`table`, `run`).
"""
