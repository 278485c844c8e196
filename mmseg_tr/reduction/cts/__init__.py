"""CTS: content-aware token sharing (Lu, de Geus, Dubbelman, CVPR 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.reduction.base import Embedded, Reduction
from mmseg_tr.reduction.checks import (
    check_choice,
    check_flag,
    check_precision,
    check_tokens,
    is_integer,
)
from mmseg_tr.reduction.cts.amount import check_amount
from mmseg_tr.reduction.cts.policy import PolicyNet, policy_on, policy_state, why_undecided
from mmseg_tr.reduction.cts.sharing import (
    Sharing,
    policy_scores,
    random_scores,
    select_superpatches,
    share_pixels,
    share_positions,
    sharing_of,
    superpatch_grid,
    superpatch_logits,
)
from mmseg_tr.reduction.ladder import Grid, Ladder, rungs
from mmseg_tr.reduction.ops import scaled_count, without_autocast

POLICIES = ('network', 'none', 'random', 'oracle')
BATCH_NORMS = ('eval', 'train', 'drift')
# ImageNet statistics of the published `deit` pipeline, for 0-255 RGB; `vit` is 127.5 for both
DEIT_MEAN, DEIT_STD = (123.68, 116.28, 103.53), (58.4, 57.12, 57.38)


class CTS(nn.Module, Reduction):
    """Let the 2x2 patches of a superpatch share one token where a policy network expects a single class.

    Which superpatches share is decided before the patch embedding, and how many is the same for every image.

    shared: number S of superpatches that share a token (published: 103 for 512 x 512 pixels and patches of 16). On
        another grid than the one the network is built for, S follows the number of superpatches, rounded half up.
    share: instead, the fraction of tokens to save, 0 to 0.75: S = ceil(share * N / 3) on a grid of N patches; 0.3
        without either.
    policy: who decides: 'network' (published), 'none' (every patch keeps its token), 'random' (by `seed`, always the
        same superpatches for an image), 'oracle' (labels: see guided()).
    policy_checkpoint: file of a trained policy network. Its weights become part of the backbone's state dict, under
        reduction.policy.*. The rule for loading: weights in a checkpoint win; a checkpoint without any, such as that
        of the plain model, is completed from policy_checkpoint, and refused where none is given. Under another
        policy than 'network' there is no network, and a checkpoint's policy weights are left out.
    policy_batch_norm: 'eval' keeps the policy's BatchNorms in eval mode; 'train', or 'drift', lets them follow the
        model into training, where they use and update batch statistics (published).
    fold_bn: with policy_batch_norm='eval', the policy's BatchNorms are folded into its convolutions in eval mode: its
        logits change by less than 1e-4. False: as published.
    odd_grid: 'alone': on odd grids superpatches tile the top-left even part, the patches left over keep their tokens;
        None refuses odd grids (the published code fails on them).
    normalization: the normalization of the images: 'vit', in [-1, 1], enter the policy unchanged; 'deit', with ImageNet
        statistics, are brought to [-1, 1] for it. The published code never does ('vit' with every backbone).
    precision: of the policy's probabilities, 'float32' or 'float64', see docs/methods/index.md.
    Raises ConfigError for settings outside these.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (
        *('shared', 'share', 'policy', 'policy_checkpoint', 'policy_batch_norm', 'odd_grid', 'normalization', 'seed'),
        *('precision', 'fold_bn'),
    )

    def __init__(
        self,
        shared: int | None = None,
        share: float | None = None,
        policy: str = 'network',
        policy_checkpoint: str | None = None,
        policy_batch_norm: str = 'eval',
        odd_grid: str | None = 'alone',
        normalization: str = 'vit',
        seed: int = 0,
        precision: str = 'float32',
        fold_bn: bool = True,
    ) -> None:
        super().__init__()
        self.decides = check_choice('policy', policy, POLICIES)
        self.policy_batch_norm = check_choice('policy_batch_norm', policy_batch_norm, BATCH_NORMS)
        self.odd_grid = check_choice('odd_grid', odd_grid, ('alone', None))
        self.fold_bn = check_flag('fold_bn', fold_bn)
        self.normalization = check_choice('normalization', normalization, ('vit', 'deit'))
        if not is_integer(seed):
            raise ConfigError(f'seed must be an integer, got {seed!r}.')
        self.precision = check_precision(precision)
        self.seed, self.policy_checkpoint, self.unread = seed, policy_checkpoint, policy_checkpoint
        self.shared, self.share = (None, None) if policy == 'none' else check_amount(shared, share)
        self.grid: Grid | None = None  # the one that `shared` counts on, known to bind()
        self.guide: Tensor | Callable[[Tensor], Tensor] | None = None
        self.policy = PolicyNet().requires_grad_(False) if policy == 'network' else None
        self.train()

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings are frozen; weights, modes and other module state are not."""
        if name in vars(self) and name in (*self.SETTINGS, 'decides', 'grid', 'guide'):
            raise FrozenInstanceError(f'cannot change {name}: a strategy is frozen, build another one.')
        super().__setattr__(name, value)

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return defaults: 30 % of the tokens, by a policy network with weights of the model or policy_checkpoint."""
        return dict(share=0.3)

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return how many superpatches share a token, as a number where the settings have one, else as the share
        saved."""
        if own.get('policy') == 'none':
            raise ConfigError("policy must share superpatches to be tuned, such as 'network' or 'random', got 'none'.")
        if own.get('shared') is not None:
            return [Ladder(cls.name, rungs(own, 'shared', range(1, math.prod(superpatch_grid(grid)) + 1)))]
        return [Ladder(cls.name, rungs(own, 'share', [round(0.025 * step, 3) for step in range(1, 31)]))]

    @classmethod
    def fixed_ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return how many superpatches share a token, the same in every image."""
        return cls.ladder({**own, 'share': None, 'shared': 1}, depth, grid)

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave so many in every layer: superpatches share until at most so many are left."""
        patches, least = math.prod(grid), math.prod(grid) - 3 * math.prod(superpatch_grid(grid))
        (asked,) = check_tokens(tokens, 1, patches)
        if asked < least:
            raise ConfigError(f'tokens must be {least} or more on the grid {tuple(grid)}, got {asked}.')
        return {**own, 'share': None, 'shared': -(-(patches - asked) // 3)}

    def settings(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.SETTINGS} | dict(policy=self.decides)
        return dict(type=type(self).__name__, **values)

    def portable_settings(self) -> dict[str, Any]:
        return self.settings() | dict(policy_checkpoint=None)

    def extra_repr(self) -> str:
        return ', '.join(f'{key}={value!r}' for key, value in self.settings().items() if key != 'type')

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        grid = (grid[0], grid[1])
        self._refuse_odd(grid)
        count = math.prod(superpatch_grid(grid))
        if self.shared is not None and self.shared > count:
            raise ConfigError(f'shared must be at most the {count} superpatches of the grid {grid}, got {self.shared}.')
        return self._with(grid=grid)

    def unexportable(self) -> str | None:
        chance = self.decides in ('random', 'oracle')
        return f"CTS with policy={self.decides!r} cannot be exported: set policy='network'." if chance else None

    def undecided(self) -> str | None:
        return None if self.guide is not None else why_undecided(self.decides, self.policy, self.unread)

    def guided(self, logits: Tensor | Callable[[Tensor], Tensor]) -> CTS:
        """Return the method for forwards in which these logits decide, (B, 2, h//2, w//2), two for each superpatch.

        logits: of the images of a forward, or a function from images (B, 3, H, W) to them.
        vit(image, reduction=vit.reduction.guided(oracle_logits(labels, vit.patch_size)))
        """
        if self.decides == 'none':
            raise ConfigError("logits decide which superpatches share, and with policy='none' none does.")
        return self._with(guide=logits)

    def init_weights(self) -> None:
        """Load policy_checkpoint, once. Raises CheckpointError when that cannot be done."""
        if self.policy is not None and self.unread:
            self.policy.pretrained, self.unread = self.unread, None
            self.policy.init_weights()

    def train(self, mode: bool = True) -> CTS:
        super().train(mode)
        if self.policy is not None and self.policy_batch_norm == 'eval':
            self.policy.eval()
        return self

    def fit_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Apply the rule for loading to a state dict, in place. prefix: of this module's keys in it.

        Raises CheckpointError when the policy's weights are needed and not available.
        """
        prefix = f'{prefix}policy.'
        given = [key for key in state if key.startswith(prefix)]
        if self.policy is None:
            for key in given:
                del state[key]
        if self.policy is None or given:
            return
        if self.policy_checkpoint is None:
            raise CheckpointError(
                'the checkpoint holds no policy network for CTS: name a trained one with policy_checkpoint, or set '
                "policy='none' or 'random'."
            )
        state.update({prefix + key: value for key, value in policy_state(self.policy_checkpoint).items()})

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        self.fit_state(state_dict, prefix)  # torch's hook for a module's own entries
        super()._load_from_state_dict(state_dict, prefix, *args)

    def embed(self, project: Callable[[Tensor], Tensor], image: Tensor, padded: Tensor, position: Tensor) -> Embedded:
        grid = (position.shape[-2], position.shape[-1])
        if self.decides == 'none':
            return super().embed(project, image, padded, position)
        patch = (padded.shape[-2] // grid[0], padded.shape[-1] // grid[1])
        sharing = self.decide(image, grid, patch)
        if sharing is None:
            return super().embed(project, image, padded, position)
        with record_function('mmseg_tr::merge'):
            strip = share_pixels(padded, sharing, patch)
            position = share_positions(position, sharing)
        tokens = project(strip).flatten(2).transpose(1, 2) + position  # (B, C, 1, T) -> (B, T, C)
        return Embedded(tokens, sharing.index, sharing.size, memo=sharing)

    def decide(self, image: Tensor, grid: Grid, patch: tuple[int, int]) -> Sharing | None:
        """Return which superpatches of each image share; None where none does. image: (B, 3, H, W) before padding."""
        self._refuse_odd(grid)
        count = self.count(grid)
        if not count:
            if 1 in grid:
                warnings.warn(f'CTS: no 2 x 2 window fits grid {grid}: nothing is shared.', stacklevel=2)
            return None
        scores = self.scores(image, superpatch_grid(grid), patch)
        with record_function('mmseg_tr::merge'):
            return sharing_of(select_superpatches(scores, count), grid, count)

    def count(self, grid: Grid) -> int:
        """Return S on a patch grid."""
        superpatches = math.prod(superpatch_grid(grid))
        if self.shared is None:
            # rounding errors such as that of 0.3 * 1600 must not add a superpatch
            return min(math.ceil((self.share or 0) * math.prod(grid) / 3 - 1e-9), superpatches)
        if self.grid is None:
            return min(self.shared, superpatches)
        return scaled_count(self.shared, math.prod(superpatch_grid(self.grid)), superpatches)

    @torch.no_grad()
    def scores(self, image: Tensor, supergrid: Grid, patch: tuple[int, int]) -> Tensor:
        """Return the sharing score of each superpatch, (B, h//2, w//2) float32."""
        if self.guide is not None:
            logits = self.guide if isinstance(self.guide, Tensor) else self.guide(image)
            if tuple(logits.shape) != (shape := (len(image), 2, *supergrid)):
                raise ConfigError(f'logits must have shape {shape} here, got {tuple(logits.shape)}.')
            return policy_scores(logits.to(image.device), self.precision)
        if self.decides == 'oracle':
            raise ConfigError(
                "policy='oracle' needs labels with every forward: use mmseg_tr.OracleSegmentor, or give the forward "
                'reduction=vit.reduction.guided(oracle_logits(labels, vit.patch_size)).'
            )
        if self.decides == 'random':
            return random_scores(image, supergrid, self.seed)
        if isinstance(self.policy, PolicyNet) and self.policy.is_random and not torch.compiler.is_compiling():
            self.policy.is_random = False  # reported once
            warnings.warn(
                'CTS: the policy network has random weights: name a trained one with policy_checkpoint, load a '
                "checkpoint of a CTS model, or set policy='random'.",
                stacklevel=2,
            )
        return policy_scores(superpatch_logits(self.policy_logits(image), supergrid, patch), self.precision)

    @torch.no_grad()
    def policy_logits(self, image: Tensor) -> Tensor:
        """Return logits of the policy network, (B, 3, H, W) -> (B, 2, ceil(H/32), ceil(W/32)); never under autocast."""
        with record_function('mmseg_tr::policy'), without_autocast(image):
            policy = policy_on(self.policy, image.device)
            image = image.to(policy.head.weight.dtype)
            if self.normalization == 'deit':
                mean, std = (_per_channel(value, image) for value in (DEIT_MEAN, DEIT_STD))
                image = (image * std + mean - 127.5) / 127.5
            if not isinstance(policy, PolicyNet):  # a network of the user's own
                return policy(image)
            return policy(image, fold_bn=self.fold_bn and self.policy_batch_norm == 'eval')

    def _refuse_odd(self, grid: Grid) -> None:
        if self.odd_grid is None and self.decides != 'none' and any(side % 2 for side in grid):
            raise ConfigError(
                f"the patch grid {tuple(grid)} is odd and odd_grid=None: set odd_grid='alone' to leave its last row or "
                'column unshared, or choose an even grid.'
            )


def _per_channel(values: tuple[float, ...], image: Tensor) -> Tensor:
    return image.new_tensor(values)[:, None, None]
