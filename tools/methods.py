"""List the token-reduction methods with their settings and defaults."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import run_tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', metavar='NAME', help='of methods (default: all)')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list."""
    args = parse_args(argv)
    from mmseg_tr.cli.methods import describe

    print(describe(args.names))


if __name__ == '__main__':
    sys.exit(run_tool(main))
