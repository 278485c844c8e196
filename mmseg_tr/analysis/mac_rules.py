"""What an operator costs, and the rules by which published papers add costs up.

An operator does units of work of some kind: multiply-adds for products, elements for everything else. A rule gives a
unit of each kind a weight; kinds that a rule does not name are free. One forward pass therefore serves all rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils.flop_counter import flop_registry

from mmseg_tr.errors import ConfigError

Units = dict[str, int]

# Products. `attention` is its two products, on any kernel.
PRODUCTS: dict[str, float] = dict(conv=1, linear=1, matmul=1, attention=1)

# Rule -> weight of one unit of each kind.
# all: everything that computes. Elements count one for each operation done on them (adding, comparing, a root, an
#   exponential, an index), softmax 5 (scale, subtract, exponential, sum, divide), GELU 4, norms 5, bilinear
#   enlargement 4 per output element, bicubic 16, pooling and sums one per element read, sorting log2 of the row per
#   element. Moving data (copies, casts, gathers, concatenation, filling) is free. One multiply-add counts as much as
#   one other operation.
RULES: dict[str, dict[str, float]] = {
    'segmenter': PRODUCTS | dict(layer_norm=5, bilinear=4),
    # what runs as a module, plus attention of the encoder with its scaling and softmax
    'expedite': dict(conv=1, conv_bias=1, linear=1, layer_norm=2, gelu=2, attention=1, query=1, softmax=2),
    'conv-matmul': PRODUCTS,
    'all': PRODUCTS
    | dict(layer_norm=5, bilinear=4, bicubic=16, softmax=5, gelu=4, group_norm=5, batch_norm=1)
    | dict(elementwise=1, reduction=1, sort=1),
}

ALIASES = {'segformerpp': 'conv-matmul'}

# Rule -> part -> weights that replace those of RULES there. Expedite's counter saw nothing of the decoder's attention
# and masks, of matching and of hashing; `clustering` and `reconstruction` are closed forms (apis.counting_expedite).
PART_RULES: dict[str, dict[str, dict[str, float]]] = {
    'expedite': dict(
        decoder=dict(conv=1, conv_bias=1, linear=1, layer_norm=2, gelu=2),
        merging=dict(clustering=1),
        restoring=dict(reconstruction=1),
    )
}

MEANINGS: dict[str, str] = {
    'segmenter': 'convolutions, products, LayerNorm and bilinear enlargement, as published with Segmenter and ALGM',
    'expedite': "layers, the encoder's attention, clustering and reconstruction, as published with Expedite, which "
    "left out matching, hashing, enlargement and the decoder's attention and masks",
    'conv-matmul': 'convolutions and products, as published with SegFormer++',
    'all': 'everything that computes, matching included',
}

# of networks without a backbone of this package
OTHER_RULE = 'conv-matmul'


def check_rule(rule: str) -> str:
    """Return a rule of RULES, also by another of its names. Raises ConfigError."""
    rule = ALIASES.get(rule, rule)
    if rule not in RULES:
        raise ConfigError(f'counting rule {rule!r} is unknown: it is one of {", ".join(RULES)}.')
    return rule


def weights_of(rule: str, part: str) -> Mapping[str, float]:
    """Weight of each kind of work that a rule counts in a part of the network."""
    return PART_RULES.get(rule, {}).get(part, RULES[rule])


def _numel(out: Any) -> int:
    """Return elements of the first tensor of an operator's output."""
    while isinstance(out, (tuple, list)):
        out = out[0] if out else None
    return out.numel() if isinstance(out, Tensor) else 0


def _product(kind: str, inner: Callable[..., int]) -> Callable[..., Units]:
    """inner(*args): the length that is summed over, for each element of the output."""
    return lambda out, *args, **kwargs: {kind: _numel(out) * inner(*args)}


def _per_output(kind: str, times: int = 1) -> Callable[..., Units]:
    return lambda out, *args, **kwargs: {kind: times * _numel(out)}


def _per_input(kind: str, which: int = 0) -> Callable[..., Units]:
    return lambda out, *args, **kwargs: {kind: args[which].numel()}


def _sdpa(out: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any = None, *args, **kwargs) -> Units:
    """q: (..., M, d); k: (..., N, d); v: (..., N, e)."""
    scores = q.numel() // max(q.shape[-1], 1) * k.shape[-2]
    units = dict(attention=scores * (q.shape[-1] + v.shape[-1]), softmax=scores, query=q.numel())
    biased = isinstance(kwargs.get('attn_mask', kwargs.get('attn_bias', bias)), Tensor)
    return units | dict(elementwise=scores) if biased else units


def _sorted(out: Any, x: Tensor, *args, **kwargs) -> Units:
    row = x.shape[kwargs.get('dim', -1)] if x.dim() else 1
    return dict(sort=x.numel() * math.ceil(math.log2(row)) if row > 1 else 0)


def _pooled(out: Any, x: Tensor, kernel: Any, *args, **kwargs) -> Units:
    sides = kernel if isinstance(kernel, (tuple, list)) else (kernel, kernel)
    return dict(reduction=_numel(out) * math.prod(sides))


def _scattered(out: Any, x: Tensor, dim: int, index: Tensor, source: Any, *args, **kwargs) -> Units:
    return dict(reduction=source.numel() if isinstance(source, Tensor) else index.numel())


def _convolution(out: Any, x: Tensor, weight: Tensor, bias, stride, padding, dilation, transposed, *args) -> Units:
    """Every output element reads a kernel; transposed, every input element writes one."""
    units = dict(conv=(x.numel() if transposed else _numel(out)) * math.prod(weight.shape[1:]))
    return units if bias is None else units | dict(conv_bias=_numel(out))


# operator, without its overload -> units(out, *args, **kwargs)
OPERATORS: dict[str, Callable[..., Units]] = {
    'convolution': _convolution,
    'linear': _product('linear', lambda x, weight, *_: weight.shape[-1]),
    'matmul': _product('matmul', lambda a, b: a.shape[-1]),
    'mm': _product('matmul', lambda a, b: a.shape[-1]),
    'bmm': _product('matmul', lambda a, b: a.shape[-1]),
    'mv': _product('matmul', lambda a, b: a.shape[-1]),
    'dot': _product('matmul', lambda a, b: a.shape[-1]),
    'addmm': _product('linear', lambda c, a, b, *_: a.shape[-1]),
    'addmv': _product('matmul', lambda c, a, b, *_: a.shape[-1]),
    'baddbmm': _product('matmul', lambda c, a, b, *_: a.shape[-1]),
    'native_layer_norm': _per_output('layer_norm'),
    'native_group_norm': _per_output('group_norm'),
    'upsample_bilinear2d': _per_output('bilinear'),
    '_upsample_bilinear2d_aa': _per_output('bilinear'),
    'grid_sampler_2d': _per_output('bilinear'),
    'upsample_bicubic2d': _per_output('bicubic'),
    '_upsample_bicubic2d_aa': _per_output('bicubic'),
    'gelu': _per_output('gelu'),
    'floor_divide': _per_output('elementwise'),  # which torch does not call pointwise
    'cumsum': _per_output('reduction'),
    'avg_pool2d': _pooled,
    'max_pool2d_with_indices': _pooled,
    'index_add': _scattered,
    'index_add_': _scattered,
    'scatter_add': _scattered,
    'scatter_add_': _scattered,
    'scatter_reduce': _scattered,
    'scatter_reduce_': _scattered,
}
for _name in ('_softmax', '_log_softmax', '_safe_softmax'):
    OPERATORS[_name] = _per_output('softmax')
for _name in (
    'native_batch_norm',
    '_native_batch_norm_legit',
    '_native_batch_norm_legit_no_training',
    '_batch_norm_no_update',
    '_batch_norm_with_update',
    'cudnn_batch_norm',
    'miopen_batch_norm',
):
    OPERATORS[_name] = _per_output('batch_norm')
SDPA = frozenset(  # attention under every name that torch runs it by
    (
        'scaled_dot_product_attention',
        '_scaled_dot_product_attention_math',
        '_scaled_dot_product_flash_attention',
        '_scaled_dot_product_flash_attention_for_cpu',
        '_scaled_dot_product_efficient_attention',
        '_scaled_dot_product_cudnn_attention',
        '_scaled_dot_product_fused_attention_overrideable',
    )
)
for _name in SDPA:
    OPERATORS[_name] = _sdpa
for _name in ('sort', 'argsort', 'topk', 'kthvalue', 'median', 'mode'):
    OPERATORS[_name] = _sorted
for _name in (
    *('sum', 'mean', 'prod', 'nansum', 'var', 'std', 'var_mean', 'std_mean', 'linalg_vector_norm', 'norm', 'logsumexp'),
    *(
        'max',
        'min',
        'amax',
        'amin',
        'aminmax',
        'argmax',
        'argmin',
        'any',
        'all',
        'count_nonzero',
        '_adaptive_avg_pool2d',
    ),
    *('bincount', 'histc', 'unique_dim', '_unique2', 'nonzero', 'cummax', 'cummin', 'cumprod'),
):
    OPERATORS[_name] = _per_input('reduction')

# Moving data is free, also where torch calls it pointwise.
MOVES = frozenset(
    """
    clone copy copy_ _to_copy contiguous fill fill_ zero_ where masked_fill masked_fill_ cat stack constant_pad_nd index
    index_select gather scatter scatter_ index_put index_put_ repeat repeat_interleave roll flip take embedding detach_
    reflection_pad2d replication_pad2d upsample_nearest2d _upsample_nearest_exact2d pixel_shuffle pixel_unshuffle im2col
    arange empty empty_like empty_strided new_empty new_empty_strided new_zeros new_ones new_full zeros zeros_like ones
    ones_like full full_like scalar_tensor eye tril tril_ triu triu_ linspace rand rand_like randn randn_like randint
    randperm uniform_ normal_ bernoulli bernoulli_ native_dropout lift_fresh lift_fresh_copy _local_scalar_dense item
    set_ resize_ resize_as_ _unsafe_view _reshape_copy _reshape_alias is_same_size equal detach
    """.split()  # noqa: SIM905 (one line per name would be hard to read)
)


def units_of(name: str, func: Any, out: Any, args: tuple, kwargs: Mapping[str, Any]) -> Units | None:
    """Return units of work of one operator that ran, `name` being that of `func` without namespace and overload.

    None for an unknown operator.
    """
    formula = flop_registry.get(getattr(func, '_overloadpacket', func))  # attention of variable length, flex attention
    if name not in OPERATORS and formula is not None:
        multiply_adds = formula(*args, **kwargs, out_val=out) // 2
        if 'attention' not in name and 'attn' not in name:
            return dict(matmul=multiply_adds)
        q, _, v = args[:3]
        scores = multiply_adds // (q.shape[-1] + v.shape[-1])
        return dict(attention=multiply_adds, softmax=scores, query=q.numel())
    if isinstance(func, HigherOrderOperator):
        return None
    if name in OPERATORS:
        settings = {key: value for key, value in kwargs.items() if key != 'out'}  # a place to write to costs nothing
        return OPERATORS[name](out, *args, **settings)
    if name in MOVES or func.is_view:
        return {}
    if torch.Tag.pointwise in func.tags:
        return dict(elementwise=_numel(out))
    return None
