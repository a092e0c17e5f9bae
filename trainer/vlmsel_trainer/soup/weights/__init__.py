"""Weights in safetensors files: headers, hashes, reading and writing as streams."""
