"""Segmenter's decoders as mmseg decode heads: losses, samplers and enlargement through BaseDecodeHead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.contenders import ScoreMap
from mmseg_tr.nn.labels import enlarged_labels
from mmseg_tr.nn.segmenter import LinearDecoder, MaskTransformer, enlarge_scores
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.registry import MODELS


class TokenHead(BaseDecodeHead):
    """A decode head over tokens, reduced or not; feature maps are taken as one token per position.

    in_channels, num_classes: width of the tokens and number of classes.
    enlarge: 'padded' enlarges scores to the padded image and crops (Segmenter's rule), 'straight' to the image size
    (the Expedite repository's). Further arguments are BaseDecodeHead's. Raises ConfigError for other values.
    """

    takes_tokens = True

    def __init__(self, in_channels: int, num_classes: int, *, enlarge: str = 'padded', **kwargs) -> None:
        if enlarge not in ('padded', 'straight'):
            raise ConfigError(f"enlarge={enlarge!r} is unknown: it is 'padded' or 'straight'.")
        kwargs = dict(channels=in_channels, dropout_ratio=0.0, init_cfg=None) | kwargs
        super().__init__(in_channels, num_classes=num_classes, **kwargs)
        del self.conv_seg  # BaseDecodeHead's classifier, which the decoder replaces
        self.enlarge = enlarge
        self.decoder: nn.Module

    def tokens(self, inputs: Sequence[Tokens | Tensor]) -> Tokens:
        features = inputs[self.in_index]
        return features if isinstance(features, Tokens) else Tokens.from_map(features)

    def forward(self, inputs: Sequence[Tokens | Tensor]) -> Tensor:
        """Return class scores on the patch grid, (B, K, h, w)."""
        return self.decoder(self.tokens(inputs))

    def loss(self, inputs, batch_data_samples, train_cfg) -> dict[str, Tensor]:
        return self.loss_by_feat(self.padding_cut(self.forward(inputs), self.tokens(inputs)), batch_data_samples)

    def predict(self, inputs, batch_img_metas: list[dict], test_cfg) -> Tensor:
        """Return logits at the size of the backbone's input, (B, K, H, W)."""
        return self.enlargement(self.tokens(inputs), batch_img_metas)(self.forward(inputs))

    def enlargement(self, tokens: Tokens, batch_img_metas: list[dict]) -> Callable[[Tensor], Tensor]:
        """Return what enlarges scores on the grid of `tokens` to the size of the backbone's input."""
        if tokens.image_size is None:
            return partial(self.predict_by_feat, batch_img_metas=batch_img_metas)
        patch_size = tokens.patch_size if self.enlarge == 'padded' else None
        return partial(enlarge_scores, image_size=tokens.image_size, patch_size=patch_size)

    def score_map(self, inputs, batch_img_metas: list[dict], size: tuple[int, int]) -> ScoreMap:
        """Return scores on the patch grid and their enlargement to `size`, that of the backbone's input."""
        tokens, scores = self.tokens(inputs), self.forward(inputs)
        corners = self.align_corners and tokens.image_size is None
        if tokens.image_size is not None and self.enlarge == 'padded':
            size = tuple(side * patch for side, patch in zip(scores.shape[-2:], tokens.patch_size))
        return ScoreMap(scores, size, self.enlargement(tokens, batch_img_metas), corners)

    def predict_labels(self, inputs) -> Tensor | None:
        """Return predict().argmax(1) without the logits, (B, H, W); None if the size of the image is unknown."""
        tokens = self.tokens(inputs)
        if tokens.image_size is None:
            return None
        patch_size = tokens.patch_size if self.enlarge == 'padded' else None
        return enlarged_labels(self.forward(inputs), tokens.image_size, patch_size)

    def padding_cut(self, scores: Tensor, tokens: Tokens) -> Tensor:
        """Return scores for the extent of the image: enlarged and cropped if the backbone padded it."""
        if self.enlarge == 'straight' or tokens.image_size is None:
            return scores
        covered = tuple(side * patch for side, patch in zip(tokens.grid, tokens.patch_size))
        # without padding BaseDecodeHead's own enlargement to the label is the same, once instead of twice
        return scores if covered == tokens.image_size else enlarge_scores(scores, tokens.image_size, tokens.patch_size)


@MODELS.register_module()
class SegmenterMaskHead(TokenHead):
    """Mask transformer (nn.MaskTransformer) as a decode head.

    depth, num_heads, dropout, drop_path and embed_dim, its width (in_channels by default), are its own.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int = 2,
        num_heads: int | None = None,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        embed_dim: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        width = in_channels if embed_dim is None else embed_dim
        self.decoder = MaskTransformer(self.out_channels, width, depth, num_heads, dropout, drop_path, in_channels)


@MODELS.register_module()
class SegmenterLinearHead(TokenHead):
    """Linear decoder (nn.LinearDecoder) as a decode head."""

    def __init__(self, in_channels: int, num_classes: int, **kwargs) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        self.decoder = LinearDecoder(self.out_channels, in_channels)
