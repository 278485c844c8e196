"""Published names of MiT's and SegFormer's weights, mapped to ours, which are mmsegmentation's.

Each table goes from a pattern of theirs, prefix and .weight or .bias left out, to ours. {0}, {1} are the pattern's
numbers in order, {0-} the first less one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# a part of a joined tensor: in_proj_weight holds the rows of queries, keys and values one below the other
IN_PROJ = 'backbone.layers.{0}.1.{1}.attn.attn.in_proj_'
# linear there, 1x1 convolutions here
PROJECTIONS = re.compile(r'.*\.ffn\.layers\.[04]\.weight|decode_head\.convs\.\d+\.weight')
FUSION = 'decode_head.fusion_conv.conv.weight'


@dataclass(frozen=True)
class Layout:
    """prefixes: possible prefixes of the names in `table`, each with ours. first: number of the first stage.

    table: theirs -> ours. joined: theirs -> (ours, place in the joined tensor), each tensor made of `parts`.
    mark: a key whose presence, after one of the prefixes, tells the layout. unused: beginnings of keys, prefix
    included, of classifiers and of layers that no forward runs.
    """

    mark: str
    prefixes: tuple[str, ...]
    first: int
    table: Mapping[str, str]
    joined: Mapping[str, tuple[str, int]]
    parts: int
    unused: tuple[str, ...]

    def recognise(self, state: Mapping) -> bool:
        return any(prefix + self.mark in state for prefix in self.prefixes)

    def to_ours(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Return the state dict under our names, and the keys that were left out (`unused`).

        Keys without a rule stay unchanged, so that a comparison with a network reports them.
        """
        found: dict[str, Tensor] = {}
        pieces: dict[str, dict[int, tuple[str, Tensor]]] = {}
        dropped = tuple(key for key in state if key.startswith(self.unused))
        for key, value in state.items():
            if key in dropped:
                continue
            name, place = self._translate(key)
            if place is None:
                flat = value.dim() == 2 and PROJECTIONS.fullmatch(name)
                found[name] = value[:, :, None, None] if flat else value
            else:
                pieces.setdefault(name, {})[place] = (key, value)
        for name, parts in pieces.items():
            if len(parts) == self.parts:
                found[name] = torch.cat([parts[place][1] for place in range(self.parts)])
            else:  # an incomplete set stays unchanged, to be reported
                found |= dict(parts.values())
        levels = sum(bool(re.fullmatch(r'decode_head\.convs\.\d+\.weight', name)) for name in found)
        if FUSION in found and levels and found[FUSION].shape[1] % levels == 0:
            # the coarsest level comes first there, the finest here
            found[FUSION] = found[FUSION].unflatten(1, (levels, -1)).flip(1).flatten(1, 2)
        return found, dropped

    def _translate(self, key: str) -> tuple[str, int | None]:
        """Return our name of a key, and the place in it where ours is joined of several."""
        prefix = next((prefix for prefix in self.prefixes if prefix and key.startswith(prefix)), '')
        if not prefix and '' not in self.prefixes and not key.startswith('decode_head.'):
            return key, None
        stem, _, kind = key.removeprefix(prefix).rpartition('.')
        for pattern, (ours, place) in self.joined.items():
            match = re.fullmatch(pattern, stem)
            if match:
                return self._fill(ours, match) + kind, place
        for pattern, ours in self.table.items():
            match = re.fullmatch(pattern, stem)
            if match:
                return f'{self._fill(ours, match)}.{kind}', None
        return key, None

    def _fill(self, ours: str, match: re.Match) -> str:
        """Stages are counted from `first` there and from 0 here."""
        numbers = [int(number) for number in match.groups()]
        return ours.format(numbers[0] - self.first, *numbers[1:]) if numbers else ours


STAGE, BLOCK = 'backbone.layers.{0}', 'backbone.layers.{0}.1.{1}'

NVIDIA = Layout(
    mark='patch_embed1.proj.weight',
    prefixes=('backbone.', ''),
    first=1,
    table={
        r'patch_embed(\d+)\.proj': f'{STAGE}.0.projection',
        r'patch_embed(\d+)\.norm': f'{STAGE}.0.norm',
        r'block(\d+)\.(\d+)\.norm1': f'{BLOCK}.norm1',
        r'block(\d+)\.(\d+)\.norm2': f'{BLOCK}.norm2',
        r'block(\d+)\.(\d+)\.attn\.proj': f'{BLOCK}.attn.attn.out_proj',
        r'block(\d+)\.(\d+)\.attn\.sr': f'{BLOCK}.attn.sr',
        r'block(\d+)\.(\d+)\.attn\.norm': f'{BLOCK}.attn.norm',
        r'block(\d+)\.(\d+)\.mlp\.fc1': f'{BLOCK}.ffn.layers.0',
        r'block(\d+)\.(\d+)\.mlp\.dwconv\.dwconv': f'{BLOCK}.ffn.layers.1',
        r'block(\d+)\.(\d+)\.mlp\.fc2': f'{BLOCK}.ffn.layers.4',
        r'norm(\d+)': f'{STAGE}.2',
        r'decode_head\.linear_c(\d+)\.proj': 'decode_head.convs.{0}',
        r'decode_head\.linear_fuse\.conv': 'decode_head.fusion_conv.conv',
        r'decode_head\.linear_fuse\.bn': 'decode_head.fusion_conv.bn',
        r'decode_head\.linear_pred': 'decode_head.conv_seg',
    },
    joined={
        r'block(\d+)\.(\d+)\.attn\.q': (IN_PROJ, 0),
        r'block(\d+)\.(\d+)\.attn\.kv': (IN_PROJ, 1),
    },
    parts=2,
    # conv_seg: of their head's base class, unused next to linear_pred
    unused=('head.', 'backbone.head.', 'decode_head.conv_seg.'),
)

HUGGING_FACE = Layout(
    mark='patch_embeddings.0.proj.weight',
    prefixes=('segformer.encoder.', 'encoder.'),
    first=0,
    table={
        r'patch_embeddings\.(\d+)\.proj': f'{STAGE}.0.projection',
        r'patch_embeddings\.(\d+)\.layer_norm': f'{STAGE}.0.norm',
        r'block\.(\d+)\.(\d+)\.layer_norm_1': f'{BLOCK}.norm1',
        r'block\.(\d+)\.(\d+)\.layer_norm_2': f'{BLOCK}.norm2',
        r'block\.(\d+)\.(\d+)\.attention\.output\.dense': f'{BLOCK}.attn.attn.out_proj',
        r'block\.(\d+)\.(\d+)\.attention\.self\.sr': f'{BLOCK}.attn.sr',
        r'block\.(\d+)\.(\d+)\.attention\.self\.layer_norm': f'{BLOCK}.attn.norm',
        r'block\.(\d+)\.(\d+)\.mlp\.dense1': f'{BLOCK}.ffn.layers.0',
        r'block\.(\d+)\.(\d+)\.mlp\.dwconv\.dwconv': f'{BLOCK}.ffn.layers.1',
        r'block\.(\d+)\.(\d+)\.mlp\.dense2': f'{BLOCK}.ffn.layers.4',
        r'layer_norm\.(\d+)': f'{STAGE}.2',
        r'decode_head\.linear_c\.(\d+)\.proj': 'decode_head.convs.{0}',
        r'decode_head\.linear_fuse': 'decode_head.fusion_conv.conv',
        r'decode_head\.batch_norm': 'decode_head.fusion_conv.bn',
        r'decode_head\.classifier': 'decode_head.conv_seg',
    },
    joined={
        r'block\.(\d+)\.(\d+)\.attention\.self\.query': (IN_PROJ, 0),
        r'block\.(\d+)\.(\d+)\.attention\.self\.key': (IN_PROJ, 1),
        r'block\.(\d+)\.(\d+)\.attention\.self\.value': (IN_PROJ, 2),
    },
    parts=3,
    unused=('classifier.',),
)
