"""Download, verify, unpack and convert a public dataset into the folder that DATASET names. Existing files are kept."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import require_openmmlab, run_tool, verbose_argument

NAMES = ('ade20k', 'cityscapes', 'pascal_context', 'coco_stuff', 'coco', 'jbd')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='An interrupted command continues when it is run again. Cityscapes reads your account from the '
        'environment variables CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD. Archives stay in DIR/archives.',
    )
    parser.add_argument('name', choices=NAMES, metavar='NAME', help=', '.join(NAMES))
    parser.add_argument('folder', nargs='?', metavar='DIR', help='folder of all datasets (default: that of DATASET)')
    parser.add_argument('--check', action='store_true', help='only list what is missing, and what to do')
    parser.add_argument('--part', nargs='+', metavar='PART', help='of coco_stuff: 10k, 164k (default: both)')
    parser.add_argument('--mirror', metavar='URL', help='take the archives from here, under their own names')
    verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare or check. Exits with 1 if a check finds something missing."""
    args = parse_args(argv)
    require_openmmlab('to prepare a dataset')
    from mmseg_tr.datasets.prepare import advice, check, dataset_folder, prepare, recipes_of

    folder = dataset_folder(args.folder)
    recipes = recipes_of(args.name, tuple(args.part) if args.part else None)
    if not args.check:
        for recipe in recipes:
            print(f'{recipe.name}: {recipe.terms}')
            for remark in _prepared(prepare, recipe, folder, args.mirror):
                print(f'note: {remark}')
            print(f'{recipe.name} is complete in {folder / recipe.root}')
        return
    complete = True
    for recipe in recipes:
        missing = check(recipe, folder)
        complete &= not missing
        print(f'{recipe.name} in {folder / recipe.root}: {"incomplete" if missing else "complete"}')
        for entry in missing:
            print(f'  missing: {entry}')
        for step in advice(recipe, missing) if missing else ():
            print(f'  to do: {step}')
    if not complete:
        raise SystemExit(1)


def _prepared(prepare, recipe, folder: Path, mirror: str | None) -> list[str]:
    """Run prepare() with a progress bar for every step."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn('{task.description}'), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def advance(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        return prepare(recipe, folder, mirror=mirror, progress=advance)


if __name__ == '__main__':
    sys.exit(run_tool(main))
