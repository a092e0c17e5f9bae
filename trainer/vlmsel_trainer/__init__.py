"""The half of vlmsel that needs torch: scoring, soups and the demo. Its commands join `vlmsel` by entry points."""
