"""Hooks and schedules of the training loop. Importing this package registers them."""
