"""Model soups: the mean of fine-tunes, safely and at the speed of the disk (POINTS, arXiv 2409.04828, section 3.3).

A soup is arithmetic on files. Nothing here builds a model or imports torch: tensors are streamed from safetensors,
averaged in a wider type, rounded once and written, and everything that could make the mean meaningless (other keys,
shapes, dtypes, vocabularies, NaN) is an error that names the difference. What this package does not do is search for
weights or interpolate by layer.
"""

from vlmsel_trainer.soup.options import SoupOptions
from vlmsel_trainer.soup.report.reporting import Reporter
from vlmsel_trainer.soup.run import Soup, SoupPlan, SoupResult, make_soup

__all__ = ["Reporter", "Soup", "SoupOptions", "SoupPlan", "SoupResult", "make_soup"]
