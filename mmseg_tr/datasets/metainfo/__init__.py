"""Joints, pairs, skeletons and tolerances, a file a dataset: what mmpose's `metainfo=dict(from_file=...)` takes."""
