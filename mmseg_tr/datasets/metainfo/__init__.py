"""Joints, pairs, skeletons and tolerances, one file per dataset, for mmpose's `metainfo=dict(from_file=...)`."""
