"""Visualisers. Importing this package registers them."""
