"""Datasets and transforms. Importing this package registers them."""
