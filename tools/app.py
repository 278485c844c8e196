"""Open a page on this machine: your picture under methods and budgets, side by side, measured against plain."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import require_openmmlab, run_tool, verbose_argument
from mmseg_tr.errors import require_extra


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', metavar='CONFIG', nargs='?')
    parser.add_argument('checkpoint', metavar='CKPT', nargs='?', help="weights of CONFIG, or 'none' for random ones")
    parser.add_argument('--model', metavar='NAME', help='instead: a folder of save_pretrained(), or a name on the hub')
    parser.add_argument('--port', type=int, default=7860, help='of the page (default: %(default)s)')
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to serve; others than the default let other machines in'
    )
    parser.add_argument(
        '--megabytes', type=float, default=20, metavar='MB', help='largest upload (default: %(default)s)'
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args(argv)
    require_openmmlab('for the app', args.config)
    require_extra('app', 'gradio', 'for the app')
    from mmseg_tr.apis.app import AppOptions, serving

    options = AppOptions(args.host, args.port, args.device, args.megabytes)
    with serving(args.config, args.checkpoint, model=args.model, options=options) as (page, address):
        print(f'Open {address} in a browser; Ctrl-C ends it.', flush=True)
        page.block_thread()


if __name__ == '__main__':
    sys.exit(run_tool(main))
