"""Make the annotation files of the jump broadcast dataset (JBD) from its published tables."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import run_tool
from mmseg_tr.errors import DatasetError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', metavar='OUT', help='folder of the dataset, such as data/jump_broadcast')
    parser.add_argument('--train', required=True, metavar='CSV', help='joints of the training frames (train.csv)')
    parser.add_argument('--val', required=True, metavar='CSV', help='joints of the validation frames (val.csv)')
    parser.add_argument('--boxes', required=True, metavar='CSV', help='boxes: image_id, min_x, min_y, width, height')
    parser.add_argument('--frames', required=True, metavar='DIR', help='frames: EVENT/EVENT_(FRAME).jpg')
    parser.add_argument('--check', action='store_true', help='only list the frames that are missing; write nothing')
    parser.add_argument('--copy', action='store_true', help='copy the frames into OUT instead of linking them')
    parser.add_argument('--force', action='store_true', help='replace annotation files that exist already')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert both splits, or check that their frames are there."""
    args = parse_args(argv)
    from mmseg_tr.datasets.jump_csv import annotation_path, convert_table, read_boxes, write_split

    if not Path(args.frames).is_dir():
        raise DatasetError(f'there is no folder {args.frames}: --frames must be the folder of the frames.')
    splits = {'train': args.train, 'val': args.val}
    there = [path for path in (annotation_path(args.out, split) for split in splits) if path.exists()]
    if there and not (args.force or args.check):
        raise DatasetError(f'{there[0]} exists already: name another folder, or add --force.')
    boxes = read_boxes(args.boxes)
    found = {split: convert_table(table, boxes, args.frames) for split, table in splits.items()}
    missing = [name for converted in found.values() for name in converted.missing]
    if args.check:
        for name in missing:
            print(f'missing  {name}')
    for split, converted in found.items():
        print(
            f'{split:6}   {len(converted.annotations["annotations"])} athletes, '
            f'{converted.without_box} rows without a box dropped, {len(converted.missing)} frames missing'
        )
    if missing:
        hint = 'get them first.' if args.check else 'list them with --check, and get them first.'
        raise DatasetError(f'{len(missing)} frames are not in {args.frames}, such as {missing[0]}: {hint}')
    if args.check:
        return
    for split, converted in found.items():
        print(f'{split:6}   {write_split(converted, args.out, split, args.frames, copy=args.copy)}')


if __name__ == '__main__':
    sys.exit(run_tool(main))
