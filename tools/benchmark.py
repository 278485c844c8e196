"""Benchmark suites of a checkout: the same as `python -m benchmarks`."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import run_tool
from mmseg_tr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the suites, which an installed wheel does not hold."""
    if not (ROOT / 'benchmarks').is_dir():
        raise ConfigError(
            'the benchmark suites need a checkout of mmseg_tr, the installed package does not contain them: '
            'run `python -m benchmarks` in a checkout.'
        )
    from benchmarks.__main__ import main as run_benchmarks

    run_benchmarks(argv)


if __name__ == '__main__':
    sys.exit(run_tool(main))
