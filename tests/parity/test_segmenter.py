"""Golden family `segmenter`: the plain network, its inference and its arithmetic against the published code."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tr.checkpoints import load_official
from mmseg_tr.checkpoints.segmenter_config import STATISTICS
from mmseg_tr.nn import MaskTransformer, Segmenter
from mmseg_tr.nn.attention import attention_probabilities
from mmseg_tr.nn.blocks import run_block
from mmseg_tr.nn.encoders import build_encoder
from mmseg_tr.nn.inference import (
    average_windows,
    enlarge_to_window,
    pad_to_multiple,
    predict_views,
    view_probabilities,
    window_anchors,
    window_size_of_image,
)
from mmseg_tr.nn.pos_embed import infer_square_grid, resize_pos_embed
from mmseg_tr.nn.pretrained import fit_state
from mmseg_tr.weights.variant import normalization as normalization_of
from mmseg_tr.weights.variant import read_variant
from tests.parity.harness import Case, golden_cases, run_case
from tests.tools.command import call

FAMILY = 'segmenter'


def resize_pos_embeds(case: Case) -> None:
    for i, job in enumerate(case.settings['jobs']):
        stored, extra = case.take(f'in{i}'), job['num_extra']
        old = tuple(job['old_grid'] or infer_square_grid(stored, extra))
        case.compare(f'out{i}', resize_pos_embed(stored, old, tuple(job['new_grid']), extra))


def checkpoint_filter(case: Case) -> None:
    """Pretrained weights, of an encoder for square images, fitted to an encoder for the crop."""
    for i, job in enumerate(case.settings['jobs']):
        stored = case.take(f'in{i}')
        arch = dict(embed_dim=stored.shape[-1], depth=1, num_heads=1, patch_size=job['patch_size'])
        encoder = build_encoder(arch | dict(distilled=job['distilled']), img_size=tuple(job['image_size']))
        checkpoint = encoder.state_dict() | dict(pos_embed=stored)
        checkpoint = dict(model=checkpoint) if job['wrapped_in_model_key'] else checkpoint
        grid = tuple(side // job['patch_size'] for side in job['image_size'])
        case.compare(f'out{i}', fit_state(checkpoint, encoder, grid, 'bilinear')['pos_embed'])


def padding(case: Case) -> None:
    for i, job in enumerate(case.settings['jobs']):
        case.compare(f'pad{i}', pad_to_multiple(case.take(f'in{i}'), (job['patch'], job['patch'])))


def resize_to_window(case: Case) -> None:
    for i, job in enumerate(case.settings['jobs']):
        case.compare(f'out{i}', enlarge_to_window(case.take(f'in{i}'), job['smaller_size']))


def resize_sizes(case: Case) -> None:
    rows = case.arrays['table'][:, :3].tolist()
    case.compare('table', np.array([[*row, *window_size_of_image(*row)] for row in rows]))


def anchors(case: Case) -> None:
    for i, job in enumerate(case.settings['jobs']):
        window, stride = (job['window'],) * 2, (job['stride'],) * 2
        case.compare(f'anchors{i}', np.array(window_anchors((job['H'], job['W']), window, stride)))


def merge_windows(case: Case) -> None:
    for i, job in enumerate(case.settings['jobs']):
        size, window, stride = (job['H'], job['W']), (job['window'],) * 2, (job['stride'],) * 2
        logits = average_windows(case.take(f'windows{i}').split(1), window_anchors(size, window, stride), size)
        case.compare(f'out{i}', view_probabilities(logits, tuple(job['ori_shape']), job['flip'])[0])


def poly_lr(case: Case) -> None:
    pytest.importorskip('mmengine')
    from mmseg_tr.engine.schedulers import polynomial_lr

    known = ('base_lr', 'iter_max', 'iter_warmup', 'min_lr', 'power', 'step_size')
    for i, job in enumerate(case.settings['jobs']):
        schedule = {name: job[name] for name in known if name in job}
        updates = range(len(case.arrays[f'lr{i}']))
        case.compare(f'lr{i}', np.array([polynomial_lr(t, **schedule, published_start=True) for t in updates]))


def miou(case: Case) -> None:
    pytest.importorskip('mmengine')
    from mmseg_tr.evaluation.metrics import SegmenterIoUMetric

    for i, job in enumerate(case.settings['jobs']):
        metric = SegmenterIoUMetric(ignore_index=255, prefix='seg')
        metric.dataset_meta = dict(classes=[str(number) for number in range(job['n_cls'])])
        for image in range(job['images']):
            prediction, label = case.take(f'pred{i}_{image}'), case.take(f'gt{i}_{image}')
            metric.process({}, [dict(pred_sem_seg=dict(data=prediction[None]), gt_sem_seg=dict(data=label[None]))])
        scores = metric.compute_metrics(metric.results)
        case.compare(f'scores{i}', np.array([scores[name] for name in ('aAcc', 'mAcc', 'mIoU')]))
        case.compare(f'cat_iou{i}', metric.class_scores['IoU'])


def normalization(case: Case) -> None:
    for name in {key.rsplit('_', 1)[0] for key in case.arrays}:
        mean, std = STATISTICS[name]
        case.compare(f'{name}_mean', np.array(mean))
        case.compare(f'{name}_std', np.array(std))


def seg_to_rgb(case: Case) -> None:
    pytest.importorskip('mmengine')
    pytest.importorskip('mmseg_tr.registry')  # lets mmseg import
    from mmseg.utils import get_palette

    from mmseg_tr.visualization.scenes import colorize

    assert case.settings['ignore'] == 255
    case.compare('rgb', colorize(case.take('seg').numpy(), get_palette(case.settings['palette'])))


def network(case: Case) -> None:
    models = {False: load_official(case.release())}
    models[True] = copy.deepcopy(models[False]).double()
    images = [name for name in case.arrays if re.fullmatch(r'x(_alt\d*)?', name)]
    for name in images:
        image = case.take(name)
        for f64, model in models.items():
            for key, value in intermediates(model, image.double() if f64 else image).items():
                case.compare(f'{name}__{key}', value, f64=f64)
    if any(name.startswith('attn_') for name in case.arrays):
        for key, value in attention_maps(models[False], case.take('x')[:1]).items():
            case.compare(key, value)


def intermediates(model: Segmenter, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """What leaves every stage of the network, by the golden data's names."""
    encoder, decoder = model.encoder, model.decoder
    tokens = encoder.embed(image)
    values = dict(tokens_embed=tokens.x)
    for i in range(len(encoder.blocks)):
        tokens = encoder.run(tokens, i + 1)
        values[f'enc_block{i}'] = tokens.x
    tokens = encoder.finish(tokens)
    values['encoder_out'] = tokens.x
    if isinstance(decoder, MaskTransformer):
        joint = decoder.embed(tokens.patches())
        for i, block in enumerate(decoder.blocks):
            joint = run_block(block, joint, i + 1)
            values[f'dec_block{i}'] = joint.x
    return values | dict(decoder_lowres=model.scores(image), logits=model(image))


def attention_maps(model: Segmenter, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Attention probabilities of every block, by the golden data's names."""
    maps = {}
    tokens = model.encoder.embed(image)
    for i, block in enumerate(model.encoder.blocks):
        maps[f'attn_enc_l{i}'] = attention_probabilities(block.attn, block.norm1(tokens.x))
        tokens = model.encoder.run(tokens, i + 1)
    if isinstance(model.decoder, MaskTransformer):
        joint = model.decoder.embed(model.encoder.finish(tokens).patches())
        for i, block in enumerate(model.decoder.blocks):
            maps[f'attn_dec_l{i}'] = attention_probabilities(block.attn, block.norm1(joint.x))
            joint = run_block(block, joint, i + 1)
    return maps


def sliding_window(case: Case) -> None:
    s, image = case.settings, case.take('im')
    model = load_official(case.release())
    runs = sorted({name.split('__')[0] for name in case.arrays if '__' in name})
    for run in runs:
        view = case.take(f'{run}__im') if f'{run}__im' in case else image
        flip = 'flip' in run
        view, size = view.flip(-1) if flip else view, original_size(case, run)
        args = (size, s['window'], s['stride'])
        probabilities = predict_views(model, [(view, flip)], *args, s['batch_size'])[0]
        case.compare(f'{run}__prob', probabilities)
        if 'max_diff_batch_size_1' in s:  # windows one at a time must give the same
            alone = predict_views(model, [(view, flip)], *args, 1)[0]
            allowed = s['max_diff_batch_size_1'] + case.entry['tolerance']['atol']
            assert (alone - probabilities).abs().max() <= allowed
        if case.holds(f'{run}__prob', f64=True):
            sharp = predict_views(copy.deepcopy(model).double(), [(view.double(), flip)], *args, s['batch_size'])[0]
            case.compare(f'{run}__prob', sharp, f64=True)
    corners = window_anchors(tuple(image.shape[-2:]), (s['window'],) * 2, (s['stride'],) * 2)
    case.compare('anchors', np.array(corners))
    crops = [image[..., y : y + s['window'], x : x + s['window']] for y, x in corners]
    case.compare('window_logits', model(torch.cat(crops)))


def original_size(case: Case, run: str) -> tuple[int, int]:
    """The size that a run was asked for: said in the meaning of its arrays, else the case's H and W."""
    for name in case.arrays:
        said = re.search(r'ori_shape \((\d+), ?(\d+)\)', case.meaning(name))
        if name.startswith(f'{run}__') and said:
            return int(said[1]), int(said[2])
    return case.settings['H'], case.settings['W']


def multiscale(case: Case) -> None:
    s, size = case.settings, tuple(case.take('image_rgb').shape[:2])
    model = load_official(case.release())
    pixels = [case.take(f'scaled{i}') for i in range(len(s['ratios']))]
    mean, std = STATISTICS[normalization_of(read_variant(case.release() / 'variant.yml'))]
    images = [((rgb - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)[None] for rgb in pixels]
    flips = (False, True) if s['flip'] else (False,)
    views = [(image.flip(-1) if flip else image, flip) for image in images for flip in flips]
    probabilities = predict_views(model, views, size, s['window'], s['stride'], window_batch=4)[0]
    case.compare('prob', probabilities)
    case.compare('pred', probabilities.argmax(0))
    if case.holds('prob_singlescale'):
        single = [(images[s['ratios'].index(1.0)], False)]
        case.compare('prob_singlescale', predict_views(model, single, size, s['window'], s['stride'])[0])


def cli_logs(case: Case) -> None:
    pytest.importorskip('mmseg')
    folder = case.folder / Path(case.entry['file']).parent
    text = (folder / 'logs.yml').read_text().replace('<dir of this file>', str(folder))
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / 'logs.yml').write_text(text)
        for name, options in case.settings['options'].items():
            printed, picture = io.StringIO(), Path(place) / f'{name}.png'
            with contextlib.redirect_stdout(printed):
                assert call('plot_logs', Path(place) / 'logs.yml', *options, '-o', picture) == 0
            case.expect(f'what {name} prints', printed.getvalue().split('\n'), case.settings['printed'][name])
            assert picture.is_file()
    case.compare('dummy', case.take('dummy'))  # the case keeps what it expects in its settings, and this for form


def cli_inference(case: Case) -> None:
    pytest.importorskip('mmseg')
    with tempfile.TemporaryDirectory() as place:
        weights, pictures, out = (Path(place) / name for name in ('model.pth', 'pictures', 'out'))
        assert call('convert_checkpoint', case.release() / 'checkpoint.pth', weights) == 0
        pictures.mkdir()
        numbers = [name.removeprefix('im') for name in case.arrays if name.startswith('im')]
        for number in numbers:
            Image.fromarray(case.take(f'im{number}').numpy()).save(pictures / f'{number}.png')
        s = case.settings  # the published command takes the windows of the release, not those of its evaluation
        windows = dict(window_batch=s['batch_size'], crop_size=(s['window'],) * 2, stride=(s['stride'],) * 2)
        options = ['--cfg-options', *(f'model.test_cfg.{key}={value}' for key, value in windows.items())]
        call_options = ('-o', out, '--native', '--device', 'cpu', *options)
        assert call('infer', weights.with_suffix('.py'), weights, pictures, *call_options) == 0
        for number in numbers:
            got, want = np.array(Image.open(out / 'blend' / f'{number}.png')), case.arrays[f'blend{number}']
            # pixels on the border of two classes may tip over
            same = (got == want).all(-1) if got.shape == want.shape else np.zeros(1)
            assert same.mean() >= 0.999, f'blend{number}: {100 * same.mean():.2f} % of pixels are equal'
            case.compare(f'blend{number}', got, where=same)


def cli_attention_maps(case: Case) -> None:
    """The command's files; the maps themselves, which PNGs hold as colours only, from what the command draws."""
    pytest.importorskip('mmseg')
    pytest.importorskip('matplotlib')
    from mmseg_tr.apis.show.attention import AttentionOptions, crop_of, load_release
    from mmseg_tr.apis.show.attention import attention_maps as maps_of
    from mmseg_tr.visualization.attention import map_png

    viewed = load_release(case.release())
    with tempfile.TemporaryDirectory() as place:
        picture = Path(place) / 'im.png'
        Image.fromarray(case.take('im').numpy()).save(picture)
        crop = crop_of(viewed, str(picture), AttentionOptions(crop='square'))
        for i, run in enumerate(case.settings['runs']):
            options, out = run['options'], Path(place) / str(i)
            with contextlib.redirect_stdout(io.StringIO()):
                assert call('show_attention', case.release(), picture, out, '--crop', 'square', *options) == 0
            given = dict(zip(options, options[1:]))
            places = {
                name: int(given.get(f'--{name.replace("_", "-")}', 0)) for name in ('layer_id', 'x_patch', 'y_patch')
            }
            chosen = AttentionOptions(decoder='--dec' in options, classes='--cls' in options, **places)
            values = maps_of(viewed, crop, chosen).values.reshape(-1, *viewed.encoder.grid)
            case.compare(f'maps{i}', values)
            files = sorted(str(file.relative_to(out)) for file in out.rglob('*.png'))
            case.expect(f'files of run {i}', files, sorted([*run['files'], *filter(None, [run.get('input_img')])]))
            for name, value in zip(run['files'], values, strict=True):
                drawn = map_png(value, viewed.encoder.patch_size, run['cmap'])
                case.expect(name, (out / name).read_bytes() == drawn, True)
            if 'input_img' in run:
                case.compare(f'input_img{i}', np.array(Image.open(out / run['input_img'])))


KINDS = {
    'resize_pos_embed': resize_pos_embeds,
    'checkpoint_filter_pos_embed': checkpoint_filter,
    'padding': padding,
    'resize_to_window': resize_to_window,
    'resize_sizes': resize_sizes,
    'sliding_window_anchors': anchors,
    'merge_windows': merge_windows,
    'poly_lr': poly_lr,
    'miou': miou,
    'normalization': normalization,
    'seg_to_rgb': seg_to_rgb,
    'network': network,
    'sliding_window': sliding_window,
    'multiscale_inference': multiscale,
    'cli_inference_ade20k': cli_inference,
    'cli_logs': cli_logs,
    'cli_attention_maps': cli_attention_maps,
}


@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_segmenter(case):
    run_case(FAMILY, *case, KINDS)
