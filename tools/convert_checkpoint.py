"""Convert a published checkpoint to this package's format, or either to mmsegmentation's, with its config."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.checkpoints import FORMATS, TARGETS, convert_file
from mmseg_tr.cli.options import run_tool
from mmseg_tr.weights.io import few


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    known = ', '.join(form.name for form in FORMATS)
    parser = argparse.ArgumentParser(description=__doc__, epilog=f'Known formats: {known}.')
    parser.add_argument('src', help='checkpoint file, or the folder of an official release')
    parser.add_argument(
        'dst', help='checkpoint to write, such as model.pth or model.safetensors; its config is written next to it'
    )
    parser.add_argument(
        '--to', choices=TARGETS, default='mmseg_tr', help="whose layout is written: mmseg for mmsegmentation 1.x's own"
    )
    parser.add_argument('--variant', help='description of an official release (default: variant.yml next to SRC)')
    parser.add_argument(
        '--trust', action='store_true', help='read files that are not plain data, which runs code from them'
    )
    parser.add_argument('--force', action='store_true', help='replace files that exist already')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert, and print what was done and what to do next."""
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # not where a notebook has replaced it
        sys.stdout.reconfigure(errors='backslashreplace')  # for names that are not UTF-8
    written = convert_file(args.src, args.dst, variant=args.variant, trust=args.trust, force=args.force, to=args.to)
    converted = written.converted
    print(f'Recognised  {converted.what}')
    print(f'Tensors     {len(converted.state_dict)} written')
    print(f'Dropped     {few(converted.dropped, limit=8) if converted.dropped else "nothing"}')
    print(f'Checkpoint  {written.checkpoint}')
    if written.config:
        print(f'Config      {written.config}')
    for note in converted.notes:
        print(f'Note        {note}')
    if written.config:
        tools = Path(__file__).resolve().parent
        command = (
            f'{tools / "test.py"} {written.config} {written.checkpoint} --eval mIoU'
            if converted.testable
            else f'{tools / "get_fps_flops.py"} {written.config} --checkpoint {written.checkpoint}'
        )
        print(f'Next        python {command}')


if __name__ == '__main__':
    sys.exit(run_tool(main))
