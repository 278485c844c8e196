"""SegFormer's decoder as a heatmap head of mmpose: loss, flip test and decoding are mmpose's HeatmapHead's."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmpose.models.heads import HeatmapHead
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.fusion import MultiScaleFusion
from mmseg_tr.reduction.checks import check_integer
from mmseg_tr.registry import MODELS


@MODELS.register_module()
class SegformerPoseHead(HeatmapHead):
    """Multi-scale concat head of SegFormer++ for pose: (B, C_i, h_i, w_i) per level -> heatmaps (B, K, h_0, w_0).

    in_channels: channels of each level, any number of them. channels: width of the fused map. out_channels: number of
    keypoints; num_keypoints is the published name of the same. loss, decoder: configs of a loss and of a codec, as
    HeatmapHead takes them. norm_cfg: of mmcv, BN or SyncBN as published, None for convolutions with bias and no norm.
    init_cfg: by default convolutions drawn with deviation 0.001. interpolate_mode, align_corners: how levels are
    enlarged. Keys of the state dict are the released ones: convs.*, fusion_conv.*, final_layer.*.
    Raises ConfigError for settings that do not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        out_channels: int | None = None,
        *,
        num_keypoints: int | None = None,
        loss: dict | None = None,
        decoder: dict | None = None,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006 (never written to)
        init_cfg: dict | list[dict] | None = None,
        interpolate_mode: str = 'bilinear',
        align_corners: bool = False,
    ) -> None:
        fusion = MultiScaleFusion(
            in_channels,
            channels,
            norm=None if norm_cfg is None else lambda width: build_norm_layer(norm_cfg, width)[1],
            interpolate_mode=interpolate_mode,
            align_corners=align_corners,
        )
        super().__init__(
            channels,
            keypoint_count(out_channels, num_keypoints),
            deconv_out_channels=None,
            loss=dict(type='mmpose.KeypointMSELoss', use_target_weight=True) if loss is None else loss,
            decoder=decoder,
            init_cfg=init_cfg,
        )
        # the layers have the released names, not those of a submodule
        self.convs: nn.ModuleList = fusion.convs
        self.fusion_conv: nn.Module = fusion.fusion_conv
        self.interpolate_mode, self.align_corners = interpolate_mode, align_corners

    fuse, enlarge, fuses_early = MultiScaleFusion.fuse, MultiScaleFusion.enlarge, True

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Return heatmaps (B, K, h_0, w_0) from maps of every level."""
        return self.final_layer(self.fuse(feats))

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: list, train_cfg: dict | None = None
    ) -> dict[str, Tensor]:
        """Return loss_kpt, and acc_pose unless compute_acc=False in train_cfg. Raises ConfigError on wrong sizes."""
        wanted, given = batch_data_samples[0].gt_fields.heatmaps.shape[-2:], feats[0].shape[-2:]
        if wanted != given:
            raise ConfigError(
                f'the head gives heatmaps of {given[0]} x {given[1]}, the targets are {wanted[0]} x {wanted[1]}: set '
                f"the codec's heatmap_size=({given[1]}, {given[0]}), width first."
            )
        return super().loss(feats, batch_data_samples, train_cfg or {})


def keypoint_count(out_channels: int | None, num_keypoints: int | None) -> int:
    """Return the number given by one of two names. Raises ConfigError for none, or two that differ."""
    count = num_keypoints if out_channels is None else out_channels
    if count is None:
        raise ConfigError('SegformerPoseHead needs num_keypoints, the number of keypoints.')
    if num_keypoints is not None and num_keypoints != count:
        raise ConfigError(
            f'SegformerPoseHead has out_channels={out_channels} and num_keypoints={num_keypoints}: both are the number '
            'of keypoints, say one.'
        )
    return check_integer('num_keypoints', count, 1)
