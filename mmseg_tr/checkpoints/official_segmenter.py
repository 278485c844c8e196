"""Official releases of Segmenter and ALGM: `checkpoint.pth` with `variant.yml` next to it.

Both have the same keys, since ALGM adds no parameters; a release of ALGM names its settings in dataset_kwargs.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.checkpoints.converted import Converted
from mmseg_tr.checkpoints.segmenter_config import Dialect, segmenter_config
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter, ViT
from mmseg_tr.weights import fit, formats, io, keymap
from mmseg_tr.weights.variant import Network, algm_reduction, normalization, read_variant, section, whole

RELEASE = Dialect(window_batch=4)
OVERLAP = 32  # of the windows of the published evaluation, in pixels
CITYSCAPES_STRIDE = 512


def build_segmenter(net_kwargs: Mapping[str, Any], reduction: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the plain `mmseg_tr.nn.Segmenter` that net_kwargs of a variant.yml describes, with fresh weights.

    Raises CheckpointError where net_kwargs describe no network, ConfigError where `reduction` does not suit it.
    """
    net = Network.from_net_kwargs(net_kwargs)
    encoder = ViT(
        net.arch,
        img_size=net.image_size,
        in_chans=net.in_chans,
        out='tokens',
        drop_rate=net.drop_rate,
        drop_path_rate=net.drop_path_rate,
        reduction=None if reduction is None else dict(reduction),
    )
    if net.decoder == 'linear':
        decoder = LinearDecoder(net.num_classes, net.embed_dim)
    else:
        decoder = MaskTransformer(
            net.num_classes,
            net.decoder_dim,
            in_channels=net.embed_dim,
            depth=net.decoder_depth,
            dropout=net.decoder_dropout,
            drop_path=net.decoder_drop_path,
        )
    return Segmenter(encoder, decoder)


def needed_tensors(net_kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the network that net_kwargs describe, without memory for their values."""
    try:
        with torch.device('meta'):
            return build_segmenter(net_kwargs).state_dict()
    except ConfigError as error:
        raise CheckpointError(f'net_kwargs of variant.yml describe no network that can be built: {error}') from error


def official_to_segmenter(
    model_state: Mapping[str, Tensor], net_kwargs: Mapping[str, Any], *, where: str = 'The checkpoint'
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights of `mmseg_tr.nn.Segmenter` from the `model` entry of an official checkpoint.

    where: what messages call the checkpoint.
    Returns the state dict, every tensor with memory of its own, and the keys that were dropped (`UNUSED_IN_RELEASES`).
    Raises CheckpointError unless every key that net_kwargs imply is there in its shape, and no other.
    """
    fit.check_tensors(model_state, where)
    kept, dropped = keymap.split(model_state, formats.UNUSED_IN_RELEASES)
    found = fit.difference(kept, needed_tensors(net_kwargs))
    if found:
        raise CheckpointError(f'{where} does not fit the network that its variant.yml describes: {found}.')
    return io.contiguous(kept), dropped


def load_payload(
    payload: Any, path: Path, reduction: Mapping[str, Any] | None, variant: str | os.PathLike | None
) -> nn.Module:
    """Return the network of a release without a policy network; see `mmseg_tr.checkpoints.load_official`.

    payload: what the checkpoint file `path` holds.
    """
    if not formats.is_release(payload):
        raise CheckpointError(
            f'{path} is not an {formats.OFFICIAL_SEGMENTER.name}: it needs an entry model with keys encoder.* and '
            'decoder.*.'
        )
    net_kwargs = section(read_variant(variant or path.with_name('variant.yml')), 'net_kwargs')
    state, _ = official_to_segmenter(payload['model'], net_kwargs, where=str(path))
    model = build_segmenter(net_kwargs, reduction)
    model.load_state_dict(state, strict=True)
    return model.eval()


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Turn a release into weights and config of this package; see `mmseg_tr.checkpoints.convert`."""
    variant_path = Path(variant) if variant else path.with_name('variant.yml')
    settings = read_variant(variant_path)
    net_kwargs = section(settings, 'net_kwargs', variant_path)
    state, dropped = official_to_segmenter(payload['model'], net_kwargs, where=str(path))
    net = Network.from_net_kwargs(net_kwargs)
    reduction = algm_reduction(settings)
    if reduction is not None:
        _check_reduction(net_kwargs, reduction)
    inference, dataset = (section(settings, f'{part}_kwargs', variant_path) for part in ('inference', 'dataset'))
    config = segmenter_config(net, normalization(settings), evaluated(inference, dataset), dataset, reduction, RELEASE)
    method = 'ALGM' if reduction else 'Segmenter'
    return Converted(
        what=f'official {method} release, {net.backbone} with {net.decoder} decoder, {net.num_classes} classes',
        state_dict=keymap.rename(state, keymap.SEGMENTER_TO_SEGMENTOR),
        meta={**config.meta, 'source': _source(method, net, payload)},
        config=config.text,
        dropped=dropped,
        notes=config.notes,
        testable=config.has_dataset,
    )


def evaluated(inference_kwargs: Mapping[str, Any], dataset_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """inference_kwargs with the stride of the published evaluation in place of that of validation during training."""
    window = whole(inference_kwargs, 'window_size', 'inference_kwargs')
    fixed = dataset_kwargs.get('dataset') == 'cityscapes' and window >= CITYSCAPES_STRIDE
    stride = CITYSCAPES_STRIDE if fixed else window - OVERLAP
    return dict(inference_kwargs) | (dict(window_stride=stride) if stride > 0 else {})


def _check_reduction(net_kwargs: Mapping[str, Any], reduction: Mapping[str, Any]) -> None:
    """Refuse ALGM settings that the network of the same variant.yml cannot run, before anything is written."""
    try:
        with torch.device('meta'):
            build_segmenter(net_kwargs, reduction)
    except ConfigError as error:
        raise CheckpointError(
            f'dataset_kwargs of variant.yml ask for a reduction that does not suit the network: {error}'
        ) from error


def _source(method: str, net: Network, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata on the origin of the weights."""
    source = {'format': f'official {method}', 'backbone': net.backbone}
    if isinstance(payload.get('epoch'), int):
        source['epoch'] = payload['epoch']
    return source
