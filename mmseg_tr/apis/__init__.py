"""What the tools and notebooks call. Each module asks for the extra that it needs when it is imported.

- `training.train`, `testing.evaluate`: a config through mmengine's runner, with user mistakes in one sentence.
- `cli`: what the command lines share.
"""
