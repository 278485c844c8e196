"""The rows that hold a fixed budget, a joint batch and a host against what they must reach.

Every function takes the Bench and a row's settings, and returns plain numbers; a row's targets name some of them.
"""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.random_weights import settings_on, with_method
from benchmarks.vit import Bench, Numbers, read, reduced
from mmseg_tr import apply
from mmseg_tr.analysis.measure import count_work
from mmseg_tr.analysis.network import find_backbone, network_of
from mmseg_tr.analysis.operators import count_operators
from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.analysis.speed import Contestant
from mmseg_tr.apis.build import cpu_threads, load_batch
from mmseg_tr.errors import ConfigError, DeviceError
from mmseg_tr.hosts.budget import Target
from mmseg_tr.hosts.fixed import method_within
from mmseg_tr.hosts.own import OwnTarget
from mmseg_tr.nn.blocks import PLAIN
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction import Reduction, build_reduction, find_method

ALTERNATING = 20  # forwards of each network, in turn, of which the median counts
PIXEL_MEAN, PIXEL_STD = 127.5, 127.5


def mildest_within(target: Target, asked: dict[str, Any], budget: float) -> Reduction:
    """Return the method's fixed form at a budget, or at the smallest work that it reaches."""
    try:
        return method_within(asked, budget, target)
    except ConfigError:
        whole, plain = target.plain()
        ladders = find_method(asked['type']).fixed_ladder(asked, target.depth, target.grid)
        strongest = [target.bind(build_reduction(ladder.rungs[-1])) for ladder in ladders if ladder.rungs]
        return min(strongest, key=lambda strategy: whole.work(strategy) / plain)


def fixed(bench: Bench, settings: Numbers) -> Numbers:
    """Time a fixed budget one image at a time, eager and, unless compiled=False, compiled; and in batches.

    method: a config whose method is taken, in its form, with the defaults of the network of `config`; else that of
    `config` itself. budget: of the plain multiply-adds. batch: of the throughput.
    """
    config, method, shape = read(settings)
    plain, size = bench.plain(config), settings['batch']
    if 'method' in settings:
        named = read(dict(config=settings['method']))[1]
        kept = {key: named[key] for key in ('type', 'form') if key in named}
        method = kept if len(kept) > 1 else kept['type']
    asked = settings_on(plain, method)
    target = OwnTarget(find_backbone(plain), weights=True, whole=plain)
    strategy = mildest_within(target, asked, settings['budget'])
    model = with_method(plain, strategy.settings())
    images = load_batch(config, plain, None, shape, size, size).to(bench.device)
    work, whole = (count_work(network, [images]).total() for network in (model, plain))
    with torch.inference_mode():
        operators, of_plain = (count_operators(network_of(net).scores, images[:1]).total() for net in (model, plain))
    eager = dict(plain=Contestant.of(plain), model=Contestant.of(model))
    alone = {name: seconds.scores for name, seconds in bench.time(eager, images.split(1)).items()}
    many = {name: seconds.scores for name, seconds in bench.time(eager, [images]).items()}
    ratio, one = many['plain'] / many['model'], alone['plain'] / alone['model']
    return dict(
        method=strategy.name,
        setting=strategy.settings(),
        shape=list(shape),
        batch=size,
        budget=settings['budget'],
        work=work / whole,
        operators_plain=of_plain,
        operators=operators - of_plain,
        time_ratio=one,
        efficiency=one * work / whole,
        **(compiled_ratio(bench, plain, model, images) if settings.get('compiled', True) else {}),
        batch_ratio=ratio,
        batch_efficiency=ratio * work / whole,
    )


def compiled_ratio(bench: Bench, plain: nn.Module, model: nn.Module, images: Tensor) -> Numbers:
    """Time both networks under torch.compile, one image at a time; None and the reason where that is impossible."""
    contestants = {
        name: Contestant.of(network, compiled=True) for name, network in dict(plain=plain, model=model).items()
    }
    try:
        times = bench.time(contestants, images.split(1))
    except DeviceError as error:
        return dict(compiled_ratio=None, not_compiled=str(error))
    return dict(compiled_ratio=times['plain'].scores / times['model'].scores)


def joint(bench: Bench, settings: Numbers) -> Numbers:
    """As reduced(), on a number of threads."""
    with cpu_threads(settings['threads']):
        return dict(reduced(bench, settings), threads=settings['threads'])


def applied(bench: Bench, settings: Numbers) -> Numbers:
    """Time mmseg_tr.apply() in a network of timm against the network and against our own ViT around its weights.

    arch: of timm. size: (H, W). The method is that of the config, at `budget`.
    """
    _, method, _ = read(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = timm.create_model(settings['arch'], img_size=settings['size'], num_classes=0).to(bench.device).eval()
    idle, reducing, own, own_reducing = (copy.deepcopy(host) for _ in range(4))
    apply(idle, PLAIN)
    apply(reducing, method, budget=settings['budget'])
    own, own_reducing = ViT(own).eval(), apply(ViT(own_reducing).eval(), method, budget=settings['budget'])
    networks = dict(host=host, idle=idle, reducing=reducing, own=own, own_reducing=own_reducing)
    contestants = {name: Contestant(last_tokens(network), lambda *_: None) for name, network in networks.items()}
    image = torch.from_numpy(photograph_batch(1, tuple(settings['size']))).to(bench.device)
    times = bench.time(contestants, [(image - PIXEL_MEAN) / PIXEL_STD], repeats=ALTERNATING, seconds=None)
    ms = {name: 1e3 * seconds.scores for name, seconds in times.items()}
    host_ratio, own_ratio = ms['host'] / ms['reducing'], ms['own'] / ms['own_reducing']
    return dict(
        arch=settings['arch'],
        shape=list(settings['size']),
        budget=settings['budget'],
        **{f'ms_{name}': value for name, value in ms.items()},
        idle_ratio=ms['host'] / ms['idle'],
        host_ratio=host_ratio,
        own_ratio=own_ratio,
        of_own=host_ratio / own_ratio,
    )


def last_tokens(network: nn.Module) -> Any:
    """The forward up to the tokens, or the map, that leave the last block."""
    return network if isinstance(network, ViT) else network.forward_features


def reached(found: Numbers, targets: dict[str, float]) -> dict[str, bool | None]:
    """Whether each target is reached; None for what was not measured."""
    return {key: None if found.get(key) is None else found[key] >= least for key, least in targets.items()}
