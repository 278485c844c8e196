"""Benchmark suites, in a checkout only: every method and published row against the plain network and its ideal."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import run_tool
from mmseg_tr.errors import ConfigError


def suites() -> ModuleType:
    """What `python -m benchmarks` runs. Raises ConfigError in an installed package, which does not contain it."""
    if not (Path(__file__).resolve().parents[1] / 'benchmarks').is_dir():
        raise ConfigError(
            'the benchmark suites need a checkout of mmseg_tr, the installed package does not contain them: '
            'run `python -m benchmarks` in a checkout.'
        )
    from benchmarks import __main__

    return __main__


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    return suites().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the suites."""
    suites().main(argv)


if __name__ == '__main__':
    sys.exit(run_tool(main))
