"""The one ViT backbone: timm's blocks, any patch grid, any token-reduction method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.backbone import Backbone, check_single
from mmseg_tr.nn.blocks import PLAIN, TokenBlock
from mmseg_tr.nn.checks import check_image, check_rates, check_sizes
from mmseg_tr.nn.encoders import SEGMENTER_ENCODERS, build_encoder
from mmseg_tr.nn.inference import pad_to_multiple
from mmseg_tr.nn.pos_embed import check_resize_rule, resize_pos_embed
from mmseg_tr.nn.pretrained import pretrained_state, resize_stored
from mmseg_tr.reduction import Reduction, Tokens, build_reduction
from mmseg_tr.reduction.checks import check_choice, check_flag, check_number, is_integer
from mmseg_tr.reduction.ladder import Grid
from mmseg_tr.reduction.observe import Merged, Watcher
from mmseg_tr.weights.fetch import check_pretrained


class ViT(Backbone):
    """A plain vision transformer for dense prediction, (B, 3, H, W) -> maps or tokens.

    arch: timm model name, or dict(embed_dim=, depth=, num_heads=, patch_size=, ...) (see nn.encoders), or a timm model,
    whose modules and weights are used unchanged.
    img_size: side or (H, W) in pixels that the position embedding is made for; default: the one in the name.
    reduction: settings of a token-reduction method, dict(type='ALGM', ...), or its name for the defaults of this width,
    depth and grid; None for the plain model.
    out: 'maps' gives a restored (B, C, h, w) map per level, for any head; 'tokens' gives Tokens, for Segmenter's heads.
    out_indices: blocks (from 0, negative from the end) whose output leaves; the final norm belongs to the last block.
    norm_eps, pos_resize: LayerNorm eps and rule for resizing the position embedding; by default 1e-5 and 'bilinear' for
    Segmenter's encoders and for encoders given by dimensions, timm's 'bicubic_antialias' and its eps for others.
    drop_rate: dropout of position embedding, attention and MLP. drop_path_rate: stochastic depth, rising over blocks.
    pretrained: True for timm's weights of that name, or a file; loaded by init_weights().
    with_cp: recompute blocks in the backward pass to save memory.
    Parameters and keys are timm's. Raises ConfigError for settings that do not exist or do not fit.
    """

    kind: ClassVar[str] = 'ViT'
    count_rule: ClassVar[str] = 'segmenter'
    attention_maps: ClassVar[bool] = True

    def __init__(
        self,
        arch: str | dict | VisionTransformer,
        img_size: int | tuple[int, int] | None = None,
        *,
        reduction: dict | str | Reduction | None = None,
        out: str = 'maps',
        out_indices: Sequence[int] = (-1,),
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        norm_eps: float | None = None,
        pos_resize: str | None = None,
        in_chans: int = 3,
        pretrained: bool | str | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        check_choice('out', out, ('maps', 'tokens'))
        check_sizes(in_chans=in_chans)
        check_rates(drop_path_rate=drop_path_rate, drop_rate=drop_rate)
        check_flag('with_cp', with_cp)
        if norm_eps is not None:
            check_number('norm_eps', norm_eps, 0)
        if pretrained is True and isinstance(arch, dict):
            raise ConfigError('pretrained=True needs an arch by name: give a weights file for an arch by dimensions.')
        check_pretrained(pretrained)
        given = isinstance(arch, nn.Module)
        if given and (img_size is not None or pretrained):
            raise ConfigError('img_size and pretrained belong to an arch by name: a timm model has its own already.')
        drops = dict(proj_drop_rate=drop_rate, attn_drop_rate=drop_rate, pos_drop_rate=drop_rate)
        model = build_encoder(arch, img_size, in_chans=in_chans, drop_path_rate=drop_path_rate, **drops)
        self.arch = type(arch).__name__ if given else arch
        self.out, self.with_cp = out, with_cp
        self.in_chans = model.patch_embed.proj.in_channels
        self.pretrained = pretrained
        self.patch_embed = model.patch_embed
        self.cls_token = model.cls_token
        self.dist_token = getattr(model, 'dist_token', None)
        self.reg_token = model.reg_token
        self.pos_embed = model.pos_embed
        self.pos_drop = model.pos_drop
        self.norm_pre = model.norm_pre
        self.blocks = nn.Sequential(*map(TokenBlock.of, model.blocks))
        self.norm = model.norm
        self.embed_dim = model.embed_dim
        self.num_prefix = model.num_prefix_tokens
        self.pos_embed_prefix = 0 if model.no_embed_class else self.num_prefix
        self.patch_size: tuple[int, int] = tuple(model.patch_embed.patch_size)
        self.grid: tuple[int, int] = tuple(model.patch_embed.grid_size)
        self.out_indices = check_out_indices(out_indices, len(self.blocks))
        published = isinstance(arch, dict) or self.arch.split('.')[0] in SEGMENTER_ENCODERS
        self.pos_resize = check_resize_rule(
            ('bilinear' if published else 'bicubic_antialias') if pos_resize is None else pos_resize
        )
        if norm_eps is not None or published:
            set_norm_eps(self, 1e-5 if norm_eps is None else norm_eps)
        self.reduction = self.fitted(reduction)

    def fitted(self, reduction: dict | str | Reduction | None) -> Reduction | None:
        """Return a method fitted to this network; a bare name takes the defaults for its width, depth and grid.

        Raises ConfigError for settings that do not exist or do not fit.
        """
        reduction = build_reduction(reduction, self.embed_dim, self.depth, self.grid)
        if reduction is None:
            return None
        if reduction.backbone != self.kind:
            raise ConfigError(f'reduction {reduction.name} is for a {reduction.backbone}, not for a ViT.')
        if reduction.needs_class_token and self.cls_token is None:
            raise ConfigError(f'reduction {reduction.name} needs a class token: arch={self.arch!r} has none.')
        return reduction.bind(self.depth, self.grid, self.num_prefix)

    @torch.no_grad()
    def watch(self, image: Tensor) -> list[Merged]:
        """Return what merges in each layer for one image, (1, C, H, W); one group per patch without a method."""
        check_single(image)
        watcher = Watcher(self.reduction or PLAIN)
        self.forward_tokens(image, reduction=watcher)
        return watcher.found

    @property
    def depths(self) -> tuple[int, ...]:
        return (len(self.blocks),)

    def layer_of(self, name: str) -> int:
        part, *inside = name.split('.')
        if part == 'blocks':
            return int(inside[0]) + 1
        return self.depth + 1 if part in ('norm', 'reduction') else 0

    @property
    def width(self) -> int:
        return self.embed_dim

    @property
    def step(self) -> tuple[int, int]:
        return self.patch_size

    def trace(self, image: Tensor) -> tuple[tuple[int, ...], ...]:
        return self.forward_tokens(image).trace

    def part_starts(self) -> list[tuple[str, nn.Module]]:
        starts = [('encoder_attention', block.norm1) for block in self.blocks]
        return [*starts, *(('encoder_mlp', block.norm2) for block in self.blocks), ('other', self.norm)]

    @property
    def extent(self) -> tuple[int, Grid]:
        return self.depth, self.grid

    def init_weights(self) -> None:
        """Load the weights named by `pretrained`, once, and those of a method that has some.

        Raises CheckpointError when they cannot be loaded.
        """
        if isinstance(self.reduction, nn.Module):
            self.reduction.init_weights()
        if self.pretrained:
            state = pretrained_state(self.arch, self.pretrained, self.in_chans, self.grid, self.pos_resize)
            own = self.state_dict()
            own.update({key: value for key, value in state.items() if key in own})
            self.load_state_dict(own)
            self.pretrained = None

    def fit_positions(self, state: dict[str, Tensor], prefix: str) -> str | None:
        """Resize the position embedding in a state dict to this image size, in place; describe the change.

        prefix: of this module's keys. Raises CheckpointError for an embedding whose grid is not square.
        """
        stored = state.get(key := f'{prefix}pos_embed')
        if stored is None or stored.shape == self.pos_embed.shape:
            return None
        state[key] = resize_stored(stored, self.grid, self.pos_embed_prefix, self.pos_resize)
        return (
            f'{key} was resized from {tuple(stored.shape)} to the {self.grid[0]} x {self.grid[1]} patches of img_size'
        )

    def forward(
        self, image: Tensor, reduction: dict | str | Reduction | None = None
    ) -> tuple[Tensor, ...] | tuple[Tokens, ...]:
        """reduction: a method for this forward alone, in place of the network's own; plain() is without any."""
        levels = self.levels(image, reduction)
        return levels if self.out == 'tokens' else tuple(tokens.to_map() for tokens in levels)

    def forward_tokens(self, image: Tensor, reduction: dict | str | Reduction | None = None) -> Tokens:
        """Return tokens that leave the last block, after the final norm; prefix tokens included."""
        method = self.method(reduction)
        tokens = self.embed(image, method)
        for layer in range(1, self.depth + 1):
            tokens = self.run(tokens, layer, method)
        return self.finish(tokens, method)

    def levels(self, image: Tensor, reduction: dict | str | Reduction | None = None) -> tuple[Tokens, ...]:
        """Return tokens of every level of out_indices, in the order of out_indices."""
        method, found = self.method(reduction), {}
        tokens = self.embed(image, method)
        for layer in range(1, max(self.out_indices) + 2):
            tokens = self.run(tokens, layer, method)
            if layer - 1 in self.out_indices:
                found[layer - 1] = self.finish(tokens, method) if layer == self.depth else tokens
        return tuple(found[index] for index in self.out_indices)

    def method(self, reduction: dict | str | Reduction | None = None) -> Reduction:
        """Return the method of a forward: the given one, else the network's own, else None."""
        return (self.running if reduction is None else self.fitted(reduction)) or PLAIN

    def embed(self, image: Tensor, method: Reduction | None = None) -> Tokens:
        """Return padded patches, prefix tokens and position embedding: (B, C, H, W) -> Tokens of (B, E + h*w, d)."""
        method = method or self.method()
        check_image(image, self.in_chans, self.patch_embed.proj.weight)
        padded = pad_to_multiple(image, self.patch_size)
        grid = tuple(side // patch for side, patch in zip(padded.shape[-2:], self.patch_size))
        pos = resize_pos_embed(self.pos_embed, self.grid, grid, self.pos_embed_prefix, self.pos_resize)
        prefix_pos, grid_pos = pos[:, : self.pos_embed_prefix], pos[:, self.pos_embed_prefix :]
        position = grid_pos.transpose(1, 2).unflatten(2, grid)  # (1, h*w, d) -> (1, d, h, w)
        patches = method.embed(self.project, image, padded, position)
        x, size = patches.x, patches.size
        prefix = [token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None]
        if prefix:
            first = torch.cat(prefix, 1)
            first = first + prefix_pos if self.pos_embed_prefix else first
            x = torch.cat([first.expand(x.shape[0], -1, -1).to(x.dtype), x], 1)
            size = size if size is None else torch.cat([size.new_ones(x.shape[0], self.num_prefix), size], 1)
        return Tokens(
            self.norm_pre(self.pos_drop(x)),
            grid,
            self.num_prefix,
            size=size,
            index=patches.index,
            image_size=tuple(image.shape[-2:]),
            patch_size=self.patch_size,
            memo=patches.memo,
        )

    def project(self, pixels: Tensor) -> Tensor:
        """Patch features without position, (B, C, H, W) -> (B, d, H/ph, W/pw)."""
        features = self.patch_embed.proj(pixels)
        if isinstance(self.patch_embed.norm, nn.Identity):
            return features
        return self.patch_embed.norm(features.movedim(1, -1)).movedim(-1, 1)

    def run(self, tokens: Tokens, layer: int, method: Reduction | None = None) -> Tokens:
        """Run one block; layer counts from 1."""
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        return self.blocks[layer - 1].run(tokens, layer, method or self.method(), recompute)

    def finish(self, tokens: Tokens, method: Reduction | None = None) -> Tokens:
        """Apply the final norm, and what the method does after it."""
        return (method or self.method()).after_norm(tokens.replace(x=self.norm(tokens.x)))


def check_out_indices(out_indices: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return block numbers from 0, negative ones counted from the end. Raises ConfigError."""
    if is_integer(out_indices):
        out_indices = (out_indices,)
    if not isinstance(out_indices, list | tuple | range) or not all(map(is_integer, out_indices)):
        raise ConfigError(f'out_indices must be a list of block numbers such as (5, 11), got {out_indices!r}.')
    indices = tuple(index + depth if index < 0 else index for index in out_indices)
    if not indices or any(not 0 <= index < depth for index in indices) or len(set(indices)) < len(indices):
        raise ConfigError(
            f'out_indices={tuple(out_indices)} must name different blocks from {-depth} to {depth - 1}, at least one.'
        )
    return indices


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Give every LayerNorm of a network this eps."""
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = eps
