"""The version's single definition (setup.py reads it without importing the package)."""

__version__ = '0.2.0'
