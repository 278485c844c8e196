"""What the tools and notebooks call. Each module asks for the extra that it needs when it is imported.

- `training.train`, `testing.evaluate`: a config through mmengine's runner, with user mistakes in one sentence.
- `counting.count_macs`, `benchmark.benchmark_model`: work and speed of a network; torch and timm are enough.
- `benchmark_config.benchmark`: the same of a config file.
- `cli`: what the command lines share.
"""
