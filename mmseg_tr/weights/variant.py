"""Read `variant.yml`, the description next to an official Segmenter, ALGM or CTS checkpoint."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import yaml

from mmseg_tr.errors import CheckpointError

NORMALIZATIONS = ('vit', 'deit')
TUPLE_TAG = 'tag:yaml.org,2002:python/tuple'


class _VariantLoader(yaml.SafeLoader):
    """Plain YAML and tuples."""


def _tuple(loader: yaml.SafeLoader, node: Any) -> tuple[Any, ...]:
    # deep: the elements are there when the tuple is made, which cannot be filled afterwards
    return tuple(loader.construct_sequence(node, deep=True))


_VariantLoader.add_constructor(TUPLE_TAG, _tuple)


def read_variant(path: str | os.PathLike) -> dict[str, Any]:
    """Return the content of a variant.yml.

    Its tuples carry the tag ``!!python/tuple``, the only tag allowed in addition to plain YAML: a file with any other
    Python tag is refused, and nothing of it is called.
    Raises CheckpointError for a missing, unreadable or malformed file.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), Loader=_VariantLoader)
    except FileNotFoundError as error:
        raise CheckpointError(
            f'There is no {path}, which describes the network: put the variant.yml of the release next to the '
            'checkpoint, or give variant=FILE.',
            parameters=['variant'],
        ) from error
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror or error}.') from error
    except yaml.constructor.ConstructorError as error:
        raise CheckpointError(
            f'{path} is refused: {error.problem} (the only Python tag that is read is '
            '!!python/tuple, and nothing was run).'
        ) from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # in addition to YAML's own errors those of its constructors: UnicodeDecodeError, invalid numbers and dates
        mark = getattr(error, 'problem_mark', None)
        where = f' (line {mark.line + 1})' if mark else ''
        raise CheckpointError(f'{path} is not valid YAML{where}: take the variant.yml of the release.') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} is not a variant.yml: it holds no settings, but needs net_kwargs.')
    return content


def section(variant: Mapping[str, Any], name: str, path: str | os.PathLike = 'variant.yml') -> dict[str, Any]:
    """Return one top-level section of a variant, such as net_kwargs. Raises CheckpointError where it is missing."""
    part = variant.get(name)
    if not isinstance(part, Mapping):
        raise CheckpointError(
            f'{path} has no section {name} (it has {", ".join(map(str, variant)) or "nothing"}): '
            'take the variant.yml of the release.'
        )
    return dict(part)


def whole(settings: Mapping[str, Any], key: str, where: str) -> int:
    """Return a positive integer among `settings`. Raises CheckpointError naming key and value."""
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f'{where}.{key} of variant.yml is {brief(value)}: it must be a positive integer.')
    return value


def rate(settings: Mapping[str, Any], key: str, where: str) -> float:
    """Return a probability among `settings`, 0 when it is missing. Raises CheckpointError naming key and value."""
    value = settings.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f'{where}.{key} of variant.yml is {brief(value)}: it must be at least 0 and below 1.')
    return float(value)


def pair(settings: Mapping[str, Any], key: str, where: str) -> tuple[int, int]:
    """(height, width) among `settings`, given as one number or as two. Raises CheckpointError naming key and value."""
    value = settings.get(key)
    both = (value, value) if isinstance(value, int) else value
    if not isinstance(both, list | tuple) or len(both) != 2:
        raise CheckpointError(f'{where}.{key} of variant.yml is {brief(value)}: it must be one or two integers.')
    return whole({key: both[0]}, key, where), whole({key: both[1]}, key, where)


@dataclass(frozen=True)
class Network:
    """The dimensions in net_kwargs. The backbone's name is only shown; dimensions do not depend on it."""

    backbone: str
    image_size: tuple[int, int]
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    distilled: bool
    drop_rate: float
    drop_path_rate: float
    num_classes: int
    decoder: str  # 'linear' or 'mask_transformer'
    decoder_dim: int  # width of the decoder, the encoder's unless decoder.d_model is given
    decoder_depth: int
    decoder_dropout: float
    decoder_drop_path: float
    in_chans: int = 3

    @classmethod
    def from_net_kwargs(cls, net_kwargs: Mapping[str, Any]) -> 'Network':
        """Read and check net_kwargs. Raises CheckpointError naming the first entry that cannot be used."""
        decoder = net_kwargs.get('decoder')
        if not isinstance(decoder, Mapping):
            raise CheckpointError(
                f'net_kwargs.decoder of variant.yml is {brief(decoder)}: a section with a name is needed.'
            )
        name = str(decoder.get('name'))
        # the published code treats every name that contains 'linear' as the linear decoder
        kind = 'linear' if 'linear' in name else name
        if kind not in ('linear', 'mask_transformer'):
            raise CheckpointError(
                f'net_kwargs.decoder.name of variant.yml is {brief(name)}: linear and mask_transformer '
                'are the decoders that can be converted.'
            )
        num_classes = whole(net_kwargs, 'n_cls', 'net_kwargs')
        if decoder.get('n_cls', num_classes) != num_classes:
            raise CheckpointError(
                f'variant.yml contradicts itself: net_kwargs.n_cls is {num_classes} and '
                f'net_kwargs.decoder.n_cls is {brief(decoder["n_cls"])}.'
            )
        mask = kind == 'mask_transformer'
        return cls(
            # on one line: the name is written into a comment of the config
            backbone=' '.join(str(net_kwargs.get('backbone', 'unnamed backbone')).split()),
            image_size=pair(net_kwargs, 'image_size', 'net_kwargs'),
            patch_size=whole(net_kwargs, 'patch_size', 'net_kwargs'),
            embed_dim=whole(net_kwargs, 'd_model', 'net_kwargs'),
            depth=whole(net_kwargs, 'n_layers', 'net_kwargs'),
            num_heads=whole(net_kwargs, 'n_heads', 'net_kwargs'),
            distilled=bool(net_kwargs.get('distilled', False)),
            drop_rate=rate(net_kwargs, 'dropout', 'net_kwargs'),
            drop_path_rate=rate(net_kwargs, 'drop_path_rate', 'net_kwargs'),
            num_classes=num_classes,
            decoder=kind,
            decoder_dim=whole({**net_kwargs, **decoder}, 'd_model', 'net_kwargs.decoder'),
            decoder_depth=whole(decoder, 'n_layers', 'net_kwargs.decoder') if mask else 0,
            decoder_dropout=rate(decoder, 'dropout', 'net_kwargs.decoder') if mask else 0.0,
            decoder_drop_path=rate(decoder, 'drop_path_rate', 'net_kwargs.decoder') if mask else 0.0,
            in_chans=whole({'in_chans': 3, **net_kwargs}, 'in_chans', 'net_kwargs'),
        )

    @property
    def arch(self) -> dict[str, Any]:
        """The `arch` of `mmseg_tr.nn.ViT`."""
        return {
            'embed_dim': self.embed_dim,
            'depth': self.depth,
            'num_heads': self.num_heads,
            'patch_size': self.patch_size,
            'distilled': self.distilled,
        }


def normalization(variant: Mapping[str, Any]) -> str:
    """Return 'vit' or 'deit', from net_kwargs or else from dataset_kwargs. Raises CheckpointError for anything else."""
    for part in ('net_kwargs', 'dataset_kwargs'):
        value = (variant.get(part) or {}).get('normalization')
        if value is not None:
            break
    if value not in NORMALIZATIONS:
        raise CheckpointError(
            f'normalization of variant.yml is {brief(value)}: {" and ".join(NORMALIZATIONS)} are known.'
        )
    return value


def algm_reduction(variant: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `reduction` of a release that was trained with ALGM, or None for plain Segmenter.

    Raises CheckpointError for an unknown patch_type and for settings that are missing or malformed.
    """
    settings = variant.get('dataset_kwargs') or {}
    patch_type = settings.get('patch_type', 'pure')
    if patch_type == 'pure':
        return None
    if patch_type != 'algm':
        raise CheckpointError(
            f'dataset_kwargs.patch_type of variant.yml is {brief(patch_type)}: pure and algm are known.'
        )
    layers = settings.get('selected_layers')
    if not isinstance(layers, list | tuple) or not layers:
        raise CheckpointError(
            f'dataset_kwargs.selected_layers of variant.yml is {brief(layers)}: layer numbers are needed.'
        )
    threshold = settings.get('threshold')
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise CheckpointError(f'dataset_kwargs.threshold of variant.yml is {brief(threshold)}: a number is needed.')
    layers = tuple(whole({'selected_layers': layer}, 'selected_layers', 'dataset_kwargs') for layer in layers)
    return {
        'type': 'ALGM',
        'layers': layers,
        'window': pair(settings, 'merging_window_size', 'dataset_kwargs'),
        'threshold': float(threshold),
    }
