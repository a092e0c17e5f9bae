"""Choosing among trained models: soups."""
