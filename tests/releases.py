"""Tiny releases in the official file format, so that the tests need no data of anybody."""

from pathlib import Path

import torch
import yaml

from mmseg_tr.checkpoints.expedite import key_table
from mmseg_tr.weights import keymap

WIDTH, CLASSES = 64, 5


def net_kwargs(decoder='mask_transformer', distilled=False, **changes):
    """Section net_kwargs of a variant.yml for a network of two layers."""
    settings = {
        'backbone': 'vit_large_patch16_384',  # not what it is: only the numbers count
        'd_model': WIDTH,
        'decoder': {'name': decoder, 'n_cls': CLASSES},
        'distilled': distilled,
        'drop_path_rate': 0.1,
        'dropout': 0.0,
        'image_size': (32, 48),
        'n_cls': CLASSES,
        'n_heads': 2,
        'n_layers': 2,
        'normalization': 'deit' if distilled else 'vit',
        'patch_size': 8,
    }
    if decoder == 'mask_transformer':
        settings['decoder'].update(drop_path_rate=0.0, dropout=0.1, n_layers=1)
    return {**settings, **changes}


def variant(settings=None, dataset='ade20k', **dataset_kwargs):
    """A whole variant.yml as a dict; dataset_kwargs may bring the settings of ALGM."""
    settings = settings or net_kwargs()
    return {
        'amp': False,
        'dataset_kwargs': {'crop_size': 32, 'dataset': dataset, 'image_size': 40, **dataset_kwargs},
        'inference_kwargs': {'im_size': 40, 'window_size': 32, 'window_stride': 24},
        'log_dir': 'runs/tiny',
        'net_kwargs': settings,
        'version': 'normal',
    }


def model_state(settings=None, seed=0):
    """Section `model` of an official checkpoint, after the published key layout; some tensors are overlapping views."""
    settings = settings or net_kwargs()
    d, patch, extra = settings['d_model'], settings['patch_size'], 1 + bool(settings['distilled'])
    height, width = settings['image_size']
    shapes = {
        'encoder.cls_token': (1, 1, d),
        'encoder.pos_embed': (1, extra + (height // patch) * (width // patch), d),
        'encoder.patch_embed.proj.weight': (d, 3, patch, patch),
        'encoder.patch_embed.proj.bias': (d,),
        **blocks('encoder', settings['n_layers'], d),
        **pair('encoder.norm', d),
        **pair('encoder.head', 1000, d),
    }
    if settings['distilled']:
        shapes |= {'encoder.dist_token': (1, 1, d), **pair('encoder.head_dist', 1000, d)}
    decoder, classes = settings['decoder'], settings['n_cls']
    if decoder['name'] == 'linear':
        shapes |= pair('decoder.head', classes, d)
    else:
        shapes |= {
            'decoder.cls_emb': (1, classes, d),
            'decoder.proj_patch': (d, d),
            'decoder.proj_classes': (d, d),
            **blocks('decoder', decoder['n_layers'], d),
            **pair('decoder.proj_dec', d, d),
            **pair('decoder.decoder_norm', d),
            **pair('decoder.mask_norm', classes),
        }
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(5000, generator=generator) * 0.1

    def tensor(key, shape):
        if key.endswith('mlp.fc1.weight'):  # rows overlap in memory, as in some published files
            return pool.as_strided(shape, (7, 3))
        return torch.randn(shape, generator=generator) * 0.1

    return {key: tensor(key, shape) for key, shape in shapes.items()}


def pair(name, *shape):
    """Weight and bias."""
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def blocks(part, depth, d):
    """Shapes of transformer blocks."""
    found = {}
    for index in range(depth):
        name = f'{part}.blocks.{index}'
        found |= pair(f'{name}.norm1', d) | pair(f'{name}.norm2', d)
        found |= pair(f'{name}.attn.qkv', 3 * d, d) | pair(f'{name}.attn.proj', d, d)
        found |= pair(f'{name}.mlp.fc1', 4 * d, d) | pair(f'{name}.mlp.fc2', d, 4 * d)
    return found


def write_release(folder, description=None, state=None):
    """Write checkpoint.pth and variant.yml into `folder`; return the checkpoint's path."""
    description = description or variant()
    settings = description['net_kwargs']
    state = model_state(settings) if state is None else state
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {'model': state, 'optimizer': {'state': {}}, 'n_cls': settings['n_cls'], 'lr_scheduler': {}, 'epoch': 63},
        folder / 'checkpoint.pth',
    )
    # the unsafe dumper writes tuples as the published code did, with !!python/tuple
    (folder / 'variant.yml').write_text(yaml.dump(description, Dumper=yaml.Dumper))
    return folder / 'checkpoint.pth'


def segmenter_to_expedite(state):
    """Weights of `mmseg_tr.nn.Segmenter` under the keys of the Expedite repository."""
    return keymap.rename(state, keymap.backwards(key_table(keymap.count_layers(state, 'encoder.blocks'))))
