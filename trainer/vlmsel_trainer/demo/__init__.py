"""A demonstration that a stranger can watch: real pairs, planted junk, a scorer trained in two minutes, the whole way.

Pictures of Unicode characters drawn from the fonts that matplotlib carries, captioned with their official names, stand in
for web pairs, because no package registry carries photographs with captions. Junk of known kinds and amounts is planted
among them, so that what the selection kept can be counted. The scorer is an ordinary LLaVA folder; everything after it is
the public command line. Nothing else of vlmsel imports this package.
"""
