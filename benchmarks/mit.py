"""The rows of a benchmark suite about MiT, about training, and about growth with the size of images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.ideal import sliced_network, token_counts
from benchmarks.random_weights import settings_on, with_method
from benchmarks.vit import Bench, Numbers, count_model, read, to_scores
from mmseg_tr.analysis.macs import SCOPES
from mmseg_tr.analysis.network import count_params, network_of, reduction_of
from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.analysis.speed import Contestant, mixed_precision, profile_once
from mmseg_tr.apis.build import load_batch
from mmseg_tr.nn.backbone import same_weights
from mmseg_tr.nn.mit import MixVisionTransformer, arch_settings
from mmseg_tr.nn.mit_blocks import MixFFN
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.nn.segmenter import MaskTransformer, Segmenter
from mmseg_tr.nn.vit import ViT
from mmseg_tr.registry import MODELS

RULE = 'conv-matmul'
CLASSES = 19


class ChannelsFirstFFN(nn.Module):
    """The published Mix-FFN: convolutions over maps, with a transposition before and after."""

    def __init__(self, ffn: MixFFN) -> None:
        super().__init__()
        self.layers = ffn.layers

    def forward(self, y: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.layers(y.transpose(1, 2).unflatten(2, grid).contiguous()).flatten(2).transpose(1, 2)


def mit(bench: Bench, arch: str, reduction: str | None = None) -> MixVisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MixVisionTransformer(arch, reduction=reduction).to(bench.device).eval()


def shipped_mit(bench: Bench, model: MixVisionTransformer, arch: str) -> nn.Module:
    """Return mmseg's own network with the same weights."""
    dims = arch_settings(arch)
    sizes = {key: dims[key] for key in ('embed_dims', 'num_layers', 'num_heads', 'patch_sizes', 'sr_ratios')}
    network = MODELS.build(dict(type='mmseg.MixVisionTransformer', mlp_ratio=4, qkv_bias=True, **sizes))
    network.load_state_dict(model.state_dict())
    return network.to(bench.device).eval()


def photographs(count: int, size: Sequence[int], device: torch.device) -> Tensor:
    """Return bundled photographs, normalised for SegFormer."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    return ((torch.from_numpy(photograph_batch(count, tuple(size))) - mean) / std).to(device)


def shipped(bench: Bench, settings: Numbers) -> Numbers:
    """Time this MiT against mmseg's, and each of its optimisations on its own."""
    ours = mit(bench, settings['arch'])
    theirs, images = shipped_mit(bench, ours, settings['arch']), photographs(1, settings['size'], bench.device)
    with torch.inference_mode(), mixed_precision(bench.device, bench.amp):
        pairs = zip(ours(images), theirs(images), strict=True)
        difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    old_ffn = same_weights(ours)
    for module in old_ffn.modules():
        for name, child in module.named_children():
            if isinstance(child, MixFFN):
                setattr(module, name, ChannelsFirstFFN(child))
    contestants = dict(
        ours=bench.contestant(ours),
        shipped=bench.contestant(theirs),
        attention=Contestant.of(ours, math_attention=True),
        ffn=bench.contestant(old_ffn),
    )
    times = {name: seconds.scores for name, seconds in bench.time(contestants, [images], warm=False).items()}
    return dict(
        arch=settings['arch'],
        shape=list(settings['size']),
        difference=difference,
        ms_shipped=1e3 * times['shipped'],
        ms=1e3 * times['ours'],
        speed_up=times['shipped'] / times['ours'],
        fused_attention=times['attention'] / times['ours'],
        channels_last_ffn=times['ffn'] / times['ours'],
    )


def fusion(bench: Bench, settings: Numbers) -> Numbers:
    """Time a whole SegFormer whose head fuses levels before and after upsampling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        early = SegFormer(MixVisionTransformer(settings['arch']), CLASSES).to(bench.device).eval()
    late = same_weights(early)
    late.decode_head.fuses_early = False
    contestants = dict(
        early=bench.contestant(early), late=bench.contestant(late), backbone=Contestant.of(early.backbone)
    )
    images = photographs(1, settings['size'], bench.device)
    times = {name: 1e3 * seconds.scores for name, seconds in bench.time(contestants, [images]).items()}
    return dict(
        arch=settings['arch'],
        shape=list(settings['size']),
        ms_late=times['late'],
        ms=times['early'],
        ms_backbone=times['backbone'],
        speed_up=times['late'] / times['early'],
    )


def merged(bench: Bench, settings: Numbers) -> Numbers:
    """Time a preset of SegFormer++ against the plain MiT and its ideal. images: how many, 2 by default."""
    plain = mit(bench, settings['arch'])
    model = plain.with_reduction(settings['merging'])
    images = photographs(settings.get('images', 2), settings['size'], bench.device)
    whole, kept = (bench.profile(Contestant.of(network), images[:1]) for network in (plain, model))
    contestants = dict(
        plain=bench.contestant(plain),
        model=bench.contestant(model),
        ideal=bench.contestant(sliced_network(model, images[:1])),
    )
    times = {name: seconds.scores for name, seconds in bench.time(contestants, images.split(1), warm=False).items()}
    before, after = (to_scores(count_model(network, images.split(1), False), RULE) for network in (plain, model))
    ratio, ideal = times['plain'] / times['model'], times['plain'] / times['ideal']
    return dict(
        method=settings['merging'],
        arch=settings['arch'],
        shape=list(settings['size']),
        batch=1,
        images=len(images),
        rule=RULE,
        gmacs_plain=before / 1e9,
        gmacs=after / 1e9,
        params=count_params(model),
        ms_plain=1e3 * times['plain'],
        ms=1e3 * times['model'],
        ms_ideal=1e3 * times['ideal'],
        work_ratio=before / after,
        time_ratio=ratio,
        ideal_ratio=ideal,
        efficiency=ratio * after / before,
        of_ideal=ratio / ideal,
        shares=kept.shares,
        peak_plain=whole.peak,
        peak=kept.peak,
    )


def training(bench: Bench, settings: Numbers) -> Numbers:
    """Measure time and peak memory of forward and backward, plain and reduced."""
    size = settings['batch']
    if 'arch' in settings:
        plain = mit(bench, settings['arch'])
        model = plain.with_reduction(settings['merging'])
        images, method = photographs(size, settings['size'], bench.device), settings['merging']
        shape = settings['size']
    else:
        config, reduction, shape = read(settings)
        plain = bench.plain(config)
        images = load_batch(config, plain, None, shape, size, size).to(bench.device)
        model = with_method(plain, reduction)
        method = reduction_of(model).name
    steps = {name: TrainingStep(bench, network) for name, network in dict(plain=plain, model=model).items()}
    peaks = {name: profile_once(lambda step=step: step(images), bench.device, {}).peak for name, step in steps.items()}
    taken = {name: [] for name in steps}
    for name in list(steps) * 2:
        taken[name].append(steps[name].seconds(images))
    plain.zero_grad(set_to_none=True)
    times = {name: min(seconds) for name, seconds in taken.items()}
    return dict(
        method=method,
        shape=list(shape),
        batch=size,
        ms_plain=1e3 * times['plain'],
        ms=1e3 * times['model'],
        time_ratio=times['plain'] / times['model'],
        peak_plain=peaks['plain'],
        peak=peaks['model'],
        memory_ratio=peaks['plain'] / peaks['model'],
    )


class TrainingStep:
    """Run forward and backward with the mean square of the output as the loss."""

    def __init__(self, bench: Bench, network: nn.Module) -> None:
        self.bench, self.network, self.scores = bench, network, network_of(network).scores

    def __call__(self, images: Tensor) -> None:
        self.network.train()
        try:
            with mixed_precision(self.bench.device, self.bench.amp):
                out = self.scores(images)
                sum(part.square().mean() for part in ([out] if isinstance(out, Tensor) else out)).backward()
        finally:
            self.network.eval()
            self.network.zero_grad(set_to_none=True)

    def seconds(self, images: Tensor) -> float:
        start = time.perf_counter()
        self(images)
        if self.bench.device.type == 'cuda':
            torch.cuda.synchronize(self.bench.device)
        return time.perf_counter() - start


def growth(bench: Bench, settings: Numbers) -> Numbers:
    """Time several image sizes, plain and reduced, and fit the exponent of time in the number of patches."""
    sides = settings['sides']
    if 'config' in settings:
        config, method, _ = read(settings)
        plain = bench.plain(config)
    else:
        method = settings['reduction']
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = ViT(settings['arch'], img_size=512, out='tokens')
            plain = Segmenter(encoder, MaskTransformer(150, encoder.embed_dim)).to(bench.device).eval()
    method = method and settings_on(plain, method)
    model = plain if method is None else with_method(plain, method)
    points = []
    for side in sides:
        image = photographs(1, (side, side), bench.device)
        kept = bench.profile(Contestant.of(model), image)
        contestants = dict(plain=bench.contestant(plain))
        if method is not None:
            with mixed_precision(bench.device, bench.amp):
                record = token_counts(model, image)
            contestants |= dict(
                model=bench.contestant(model), ideal=bench.contestant(sliced_network(model, image, record))
            )
        times = {name: taken.scores for name, taken in bench.time(contestants, [image], warm=False).items()}
        overhead = sum(kept.shares[part] for part in SCOPES.values()) * times.get('model', 0)
        points.append(
            dict(side=side, peak=kept.peak, ms_overhead=1e3 * overhead)
            | {f'ms_{name}': 1e3 * seconds for name, seconds in times.items()}
        )
    exponents = {
        key: exponent(sides, [point[key] for point in points])
        for key in ('ms_plain', 'ms_model', 'ms_ideal', 'ms_overhead')
        if all(point.get(key, 0) > 0 for point in points)
    }
    saved = [point['ms_plain'] - point['ms_ideal'] for point in points] if method else []
    if saved and min(saved) > 0:
        exponents['ms_saved'] = exponent(sides, saved)
    name = reduction_of(model).name if method else 'plain'
    return dict(method=name, setting=method, points=points, exponents=exponents)


def exponent(sides: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of log(value) over log(number of patches), fitted by least squares."""
    xs, ys = [2 * math.log(side) for side in sides], [math.log(value) for value in values]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / sum((x - mx) ** 2 for x in xs)
