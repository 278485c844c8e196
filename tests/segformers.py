"""Tiny MiT and SegFormer weights under the names that others have, made from ours: no data of anybody is needed."""

import torch

from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from tests.nn.networks import shaken

ARCH = dict(embed_dims=8, num_layers=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))
CLASSES, CHANNELS = 5, 12


def segformer(head='conv', seed=0, **kwargs):
    torch.manual_seed(seed)
    model = SegFormer(MixVisionTransformer(ARCH, **kwargs), CLASSES, head=head, channels=CHANNELS)
    return shaken(model, seed)


def nvidia(state, prefix='backbone.'):
    """A state dict of ours, backbone.* and the linear head's decode_head.*, as NVIDIA's code names it."""
    found = {}
    for key, value in state.items():
        parts = key.split('.')
        kind, width = parts[-1], value.reshape(-1, *value.shape[1:]).shape[0] // 3  # num_batches_tracked has no length
        if key.startswith('decode_head.'):
            found |= nvidia_head(key, value)
            continue
        stage, inner = int(parts[2]) + 1, '.'.join(parts[3:])
        if inner.startswith('0.'):
            found[f'{prefix}patch_embed{stage}.{inner[2:].replace("projection", "proj")}'] = value
        elif inner.startswith('2.'):
            found[f'{prefix}norm{stage}.{kind}'] = value
        elif 'in_proj_' in inner:
            name, kind = f'{prefix}block{stage}.{parts[4]}.attn', kind.removeprefix('in_proj_')
            found[f'{name}.q.{kind}'], found[f'{name}.kv.{kind}'] = value[:width], value[width:]
        else:
            inner = '.'.join(parts[5:-1])
            flat = value.dim() == 4 and inner in ('ffn.layers.0', 'ffn.layers.4')
            names = {'attn.attn.out_proj': 'attn.proj', 'ffn.layers.0': 'mlp.fc1', 'ffn.layers.4': 'mlp.fc2'}
            names['ffn.layers.1'] = 'mlp.dwconv.dwconv'
            value = value.flatten(1) if flat else value
            found[f'{prefix}block{stage}.{parts[4]}.{names.get(inner, inner)}.{kind}'] = value
    return found


def nvidia_head(key, value):
    _, name, *rest = key.split('.')
    if name == 'convs':
        flat = value.flatten(1) if value.dim() == 4 else value
        return {f'decode_head.linear_c{int(rest[0]) + 1}.proj.{rest[-1]}': flat}
    if name == 'conv_seg':
        return {f'decode_head.linear_pred.{rest[-1]}': value}
    if key.endswith('conv.weight'):
        value = torch.cat(value.split(CHANNELS, dim=1)[::-1], dim=1)
    return {f'decode_head.linear_fuse.{".".join(rest)}': value}


def nvidia_backbone(model):
    """mit_b*.pth: the bare backbone with the ImageNet classifier behind it."""
    ours = {key: value for key, value in model.state_dict().items() if key.startswith('backbone.')}
    classifier = {'head.weight': torch.zeros(1000, 32), 'head.bias': torch.zeros(1000)}
    return nvidia(ours, prefix='') | classifier
