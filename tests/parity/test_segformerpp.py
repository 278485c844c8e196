"""Golden family `segformerpp`: mergers, attention, networks and training against the published code.

The published order of merged tokens depends on an unstable sort: what is compared is which tokens share one, in whose
place each of them ends (rep), and values sorted by place.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import installed
from mmseg_tr.nn.mit import ARCHS, EfficientAttention, MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.reduction.segformerpp import Neighbours1D, Neighbours2D, grid_matching, mergers
from mmseg_tr.reduction.segformerpp.settings import parse_stage
from mmseg_tr.weights.mit import load_strictly
from tests.parity.harness import Case, golden_cases, golden_root, run_case
from tests.parity.pose import pose_codec, require_mmpose, run_pose_network

FAMILY = 'segformerpp'
FOLDER = golden_root() / FAMILY


def manifest() -> dict:
    return json.loads((FOLDER / 'manifest.json').read_text(encoding='utf-8'))


def destinations(grid, stride, offset=None) -> Tensor:
    if offset is not None:
        return mergers.shifted_partition(grid, stride, offset)[0]
    return torch.tensor(mergers.grid_partition(grid, stride)[0])


def slot_owners(index: Tensor, dst: Tensor, slots: int) -> Tensor:
    """Token in whose place every merged token stands, (B, slots): its destination, or the token itself."""
    owner = index.new_zeros(index.shape[0], slots)
    owner.scatter_(1, index, torch.arange(index.shape[1]).expand_as(index))
    return owner.scatter_(1, index[:, dst], dst.expand(index.shape[0], -1))


@contextmanager
def recorded():
    """rep maps of all matchings inside, in the order of calls."""
    maps = []

    def record(metric, grid, stride, r, offset=None):
        merge = grid_matching(metric, grid, stride, r, offset)
        dst = destinations(grid, (min(stride[0], grid[0]), min(stride[1], grid[1])), offset)
        maps.append(slot_owners(merge.index, dst, merge.lengths[0]).gather(1, merge.index))
        return merge

    with mock.patch.object(mergers, 'grid_matching', record):
        yield maps


def compare_thinned(case: Case, name: str, value: Tensor) -> None:
    """As case.compare(), of every k-th row and column where the array's description says so."""
    thinned = re.search(r'::(\d+), ::\1\]', case.meaning(name))
    step = int(thinned[1]) if thinned else 1
    case.compare(name, value[..., ::step, ::step])


def compare_maps(case: Case, maps: list[Tensor], prefix: str) -> None:
    """Every rep map, and as many as the case has."""
    for number, rep in enumerate(maps):
        case.compare(f'{prefix}{number}', rep)
    stored = sum(name.startswith(prefix) and name[len(prefix) :].isdigit() for name in case.arrays)
    case.expect(f'the number of {prefix} maps', len(maps), stored)


def matching_case(case: Case) -> None:
    s = case.settings
    grid, stride, offset = (s['h'], s['w']), (s['sy'], s['sx']), None
    blocks = (s['h'] // s['sy'], s['w'] // s['sx'])
    if not s.get('no_rand', True):
        generator = torch.Generator().manual_seed(s['generator_seed'])
        offset = torch.randint(s['sy'] * s['sx'], (*blocks, 1), generator=generator)[..., 0]
        case.compare('dst_offset', offset)
    metric, given, weight = case.take('metric'), case.take('y'), case.take('loss_weight')
    if 'slot_pos_raw' in case:
        case.take('slot_pos_raw')  # their order on one machine
    for dtype in (torch.float32, torch.float64):
        merge = grid_matching(metric.to(dtype), grid, stride, s['r_requested'], offset)
        lengths = (metric.shape[1],) * metric.shape[0]
        dst = destinations(grid, stride, offset)
        if s['r_requested'] > 0:
            case.expect('the number of tokens left', merge.lengths[0], s['M'])
            owner = slot_owners(merge.index, dst, merge.lengths[0])
            case.compare('rep', owner.gather(1, merge.index))
            case.compare('dst_pos', dst.sort().values)
            case.compare('slot_pos', owner.sort(1).values)
            order = owner.argsort(1)[..., None].expand(-1, -1, given.shape[-1])
            case.compare('merged_sorted', merge.apply(given.to(dtype), None, lengths)[0].gather(1, order))
            for mode in ('sum', 'amax'):
                merged = merge.reduce(given.to(dtype), lengths, mode)
                case.compare(f'merged_sorted_{mode}', merged.gather(1, order))
        with torch.enable_grad():
            y = given.to(dtype, copy=True).requires_grad_()
            back = merge.unmerge(merge.apply(y, None, lengths)[0], lengths)
            (back * weight).sum().backward()
        case.compare('merged_unmerged', back)
        case.compare('grad_y', y.grad)


def invariant_case(case: Case) -> None:
    s, x = case.settings, case.take('x')
    merge = grid_matching(x, (s['h'], s['w']), (s['sy'], s['sx']), s['r_requested'])
    lengths = (x.shape[1],) * x.shape[0]
    merged = merge.apply(x, None, lengths)[0]
    case.expect('the number of tokens left', merged.shape[1], x.shape[1] - s['r_requested'])
    case.compare('merged_unmerged', merge.unmerge(merged, lengths))


def neighbours_1d(case: Case) -> None:
    x = case.take('x')
    merged, expand = Neighbours1D(case.settings['s'])(x, (1, x.shape[1]))
    case.compare('merged', merged)
    case.compare('unmerged', expand(merged))


def neighbours_2d(case: Case) -> None:
    s, x = case.settings, case.take('x')
    merged, expand = Neighbours2D(tuple(s['s']))(x.flatten(2).transpose(1, 2), (s['h'], s['w']))
    small = tuple(math.ceil(side / step) for side, step in zip((s['h'], s['w']), s['s'], strict=True))
    case.compare('merged', merged.transpose(1, 2).unflatten(2, small))
    case.compare('unmerged', expand(merged).transpose(1, 2).unflatten(2, (s['h'], s['w'])))


def attention_case(case: Case) -> None:
    s, x, identity = case.settings, case.take('x'), case.take('identity')
    file, prefix = s['weights'].split(',')[0], s['weights'].split('"')[1]
    weights = load_file(case.folder / file)
    module = EfficientAttention(s['C'], s['num_heads'], s['sr_ratio'], True, 0.0, 0.0).eval()
    module.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
    for name, mode in s['modes'].items():
        if f'out_{name}' not in case:  # too near a tie to be kept
            continue
        with recorded() as maps:
            case.compare(f'out_{name}', identity + module(x, (s['h'], s['w']), parse_stage(mode, 1))[0])
        compare_maps(case, maps, f'rep_{name}_')


class Model(nn.Module):
    """MiT with mmseg's SegformerHead, whose keys the published weights have."""

    def __init__(self, arch: dict | str, merging, channels: int, classes: int) -> None:
        super().__init__()
        if not installed('mmseg'):
            pytest.skip("the head is mmseg's, which is not installed")
        ensure_openmmlab()
        from mmseg.models.decode_heads import SegformerHead

        self.backbone = MixVisionTransformer(arch, reduction=merging)
        self.decode_head = SegformerHead(
            in_channels=list(self.backbone.widths),
            in_index=list(range(len(self.backbone.widths))),
            channels=channels,
            num_classes=classes,
            norm_cfg=dict(type='BN'),
            align_corners=False,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        maps = self.backbone(x)
        return self.decode_head(maps), maps


def merging_of(cfg: list | None, down_sample: bool):
    return 'downsample' if down_sample else cfg


def stored_arch() -> dict:
    known = ('embed_dims', 'num_layers', 'num_heads', 'sr_ratios', 'patch_sizes', 'strides', 'mlp_ratio', 'qkv_bias')
    return {key: manifest()['weights']['arch'][key] for key in known}


def stored_model(case: Case, merging) -> Model:
    described = manifest()['weights']['arch']
    model = Model(stored_arch(), merging, described['head_channels'], described['num_classes'])
    model.load_state_dict(load_file(case.folder / case.settings['weights']))
    return model.eval()


def image_of(case: Case) -> Tensor:
    return case.take('x_int8').float() / 32


def network(case: Case) -> None:
    image = image_of(case)
    for name, method in case.settings['methods'].items():
        model = stored_model(case, merging_of(method['tome_cfg'], method['down_sample']))
        with recorded() as maps:
            logits, levels = model(image)
        case.compare(f'{name}.logits', logits)
        for number, level in enumerate(levels, 1):
            compare_thinned(case, f'{name}.c{number}', level)
        compare_maps(case, maps, f'{name}.rep_')


def network_trace(case: Case) -> None:
    model = stored_model(case, case.settings['tome_cfg'])
    seen = {}

    def keep(name):
        def hook(module, args, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for i, (embed, blocks, _) in enumerate(model.backbone.layers):
        embed.register_forward_hook(keep(f's{i}.patch_embed'))
        for j, block in enumerate(blocks):
            block.register_forward_hook(keep(f's{i}.b{j}.block'))
            # the input of the second norm is the sum behind attention
            block.norm2.register_forward_pre_hook(
                lambda module, args, name=f's{i}.b{j}.attn': seen.__setitem__(name, args[0])
            )
    model.decode_head.fusion_conv.register_forward_hook(keep('head.fusion'))
    with recorded() as maps:
        seen['logits'], levels = model(image_of(case))
    seen |= {f'c{number}': level for number, level in enumerate(levels, 1)}
    for name, value in seen.items():
        compare_thinned(case, name, value)
    compare_maps(case, maps, 'rep_')


def training_step(case: Case) -> None:
    model = stored_model(case, case.settings['tome_cfg'])
    image = image_of(case).requires_grad_()
    with torch.enable_grad(), recorded() as maps:
        loss = model(image)[0].square().mean()
        loss.backward()
    case.compare('loss', loss.reshape(1))
    compare_thinned(case, 'grad_x', image.grad)
    for name, parameter in model.named_parameters():
        case.compare(f'grad:{name}', parameter.grad)
    compare_maps(case, maps, 'rep_')


def formula_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by the manifest's recipe, from the rank of each key and the place of each element."""
    state = {}
    for rank, key in enumerate(sorted(shapes)):
        shape = shapes[key]
        if key.endswith('num_batches_tracked'):
            state[key] = torch.tensor(0)
            continue
        with np.errstate(over='ignore'):
            x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(rank * 40503)
            x ^= x >> np.uint32(16)
            x *= np.uint32(0x85EBCA6B)
            x ^= x >> np.uint32(13)
            x *= np.uint32(0xC2B2AE35)
            x ^= x >> np.uint32(16)
        u = x / 2**32 - 0.5
        if len(shape) >= 2:
            value = u * math.sqrt(12 / math.prod(shape[1:]))
        elif key.endswith('.running_var'):
            value = 1 + u
        else:
            value = 1 + u / 2 if key.endswith('.weight') else 0.4 * u
        state[key] = torch.from_numpy(value.astype(np.float32).reshape(shape))
    return state


def formula_network(case: Case) -> None:
    described, image = manifest()['formula_weights'], image_of(case)
    for name, (cfg, down_sample) in case.settings['methods'].items():
        merging = merging_of(cfg, down_sample)
        model = Model(described['arch'], merging, described['head_channels'], described['num_classes']).eval()
        model.load_state_dict(formula_state({key: tuple(value.shape) for key, value in model.state_dict().items()}))
        with recorded() as maps:
            logits, levels = model(image)
        case.compare(f'logits_{name}', logits[:, [0, 8, 16]])
        case.compare(f'c4_{name}', levels[-1][:, ::8])
        compare_maps(case, maps, f'rep_{name}_')


def pose_network(case: Case) -> None:
    require_mmpose()
    with recorded() as maps:
        run_pose_network(case, image_of(case), stored_arch(), maps, compare_maps)


KINDS = {
    'grid_matching': matching_case,
    'grid_matching_invariant': invariant_case,
    'neighbour_1d': neighbours_1d,
    'neighbour_2d': neighbours_2d,
    'attention': attention_case,
    'network': network,
    'network_trace': network_trace,
    'training_step': training_step,
    'network_formula_weights': formula_network,
    'pose_network': pose_network,
    'pose_codec': pose_codec,
}


@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_segformerpp(case):
    run_case(FAMILY, *case, KINDS)


@pytest.mark.parametrize('arch', ARCHS)
def test_state_dict_is_that_of_the_published_models(arch):
    file = FOLDER / 'keys_b0_b5.json.gz'
    if not file.is_file():
        pytest.skip(f'there is no {file} (MMSEG_TR_GOLDEN names another folder)')
    want = {key: tuple(shape) for key, shape in json.loads(gzip.decompress(file.read_bytes()))[arch].items()}
    with torch.device('meta'):
        model = SegFormer(MixVisionTransformer(arch, reduction='bsm_hq'), 19)
        load_strictly(model, {key: torch.empty(shape) for key, shape in want.items()}, arch)
    got = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert got == want
    ours = [key for key in want if key.startswith('backbone.')]
    assert [key for key in got if key.startswith('backbone.')] == ours
