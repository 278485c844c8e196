"""Draw what a patch, the class token or the class embeddings attend to, one PNG per head.

Under token reduction, for methods whose tokens have an index of their patches, a merged patch uses its token's
attention.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import cfg_options_argument, require_openmmlab, run_tool, verbose_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', nargs='+', metavar='MODEL', help='CONFIG CKPT, or the folder of an official release')
    parser.add_argument('image', metavar='IMAGE')
    parser.add_argument('out', metavar='OUT', help='folder for {enc|dec}_layer{L}/...')
    parser.add_argument('--layer-id', type=int, default=0, metavar='L', help='layer, from 0 (default: 0)')
    parser.add_argument('--x-patch', type=int, default=0, metavar='X', help='column of the patch (default: 0)')
    parser.add_argument('--y-patch', type=int, default=0, metavar='Y', help='row of the patch (default: 0)')
    parser.add_argument('--heads', type=int, nargs='+', metavar='H', help='heads, from 0 (default: all)')
    parser.add_argument('--cmap', default='viridis', help="matplotlib's colour map (default: viridis)")
    part = parser.add_mutually_exclusive_group()
    part.add_argument('--enc', dest='decoder', action='store_false', help='of the encoder (default)')
    part.add_argument('--dec', dest='decoder', action='store_true', help='of the decoder, a mask transformer')
    query = parser.add_mutually_exclusive_group()
    query.add_argument('--patch', dest='classes', action='store_false', help='of a patch (default)')
    query.add_argument('--cls', dest='classes', action='store_true', help='of the class token or class embeddings')
    parser.add_argument(
        '--crop',
        metavar='KIND',
        help='square: short side resized to the window, then the top left square, as published and as a release is '
        'always shown (default: a window of the test)',
    )
    parser.add_argument('--window', type=int, default=0, metavar='N', help='window of the test, from 0 (default: 0)')
    parser.add_argument(
        '--reduction', metavar='METHOD', help="over the config's: a name such as tome, type=ToMe,r=8, or None"
    )
    parser.add_argument('--force', action='store_true', help='replace pictures that exist')
    verbose_argument(parser)
    cfg_options_argument(parser)
    parser.set_defaults(decoder=False, classes=False)
    args = parser.parse_args(argv)
    if len(args.model) > 2:
        parser.error('give CONFIG CKPT IMAGE OUT, or FOLDER IMAGE OUT for an official release')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Compute, then write."""
    args = parse_args(argv)
    require_openmmlab('to draw attention maps', *(args.model[:1] if len(args.model) == 2 else ()))
    import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)
    from mmseg_tr.apis.show.attention import (
        AttentionOptions,
        attention_maps,
        crop_of,
        file_names,
        load_configured,
        load_release,
    )
    from mmseg_tr.errors import ConfigError
    from mmseg_tr.files import write_atomically
    from mmseg_tr.visualization.attention import check_colormap, map_png, paint_patch, picture_png

    check_colormap(args.cmap)
    released = len(args.model) == 1
    for name in ('cfg_options', 'reduction'):
        if released and getattr(args, name):
            raise ConfigError(f'{name} belongs to a config: leave it out for a release.', parameters=[name])
    chosen = ('decoder', 'classes', 'layer_id', 'x_patch', 'y_patch', 'heads', 'crop', 'window')
    options = AttentionOptions(**{name: getattr(args, name) for name in chosen})
    model = load_release(*args.model) if released else load_configured(*args.model, args.reduction, args.cfg_options)
    crop = crop_of(model, args.image, options)
    maps = attention_maps(model, crop, options)
    size, pictures = model.encoder.patch_size, {}
    for names, values in zip(file_names(maps, options), maps.values, strict=True):
        for name, value in zip(names, values, strict=True):
            pictures[Path(args.out, name)] = map_png(value, size, args.cmap)
    if not args.classes:
        painted = paint_patch(crop.pixels, args.x_patch, args.y_patch, size)
        pictures[next(iter(pictures)).with_name('input_img.png')] = picture_png(painted)
    for path in pictures:
        if path.exists() and not args.force:
            raise ConfigError(f'force must be set to replace what exists: {path}.', parameters=['force'])
    for path, content in pictures.items():
        write_atomically(content, path)
    print(f'{len(pictures)} pictures in {Path(args.out)}')
    print(f'scale: {crop.scale}')


if __name__ == '__main__':
    sys.exit(run_tool(main))
