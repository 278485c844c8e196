"""A model around CTS's policy network that mmengine's runner trains and tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_tr.datasets.policy_labels import policy_labels
from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.cts.policy import PolicyNet
from mmseg_tr.reduction.cts.sharing import IGNORE, STRIDE
from mmseg_tr.registry import MODELS

LABEL_RULES = ('zero_is_ignore', 'share_ignored', 'ignore_mixed', 'ignore_mixed_border')


def policy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy over the superpatches that count; 0 when none does.

    logits: (B, 2, h, w); labels: (B, h, w) of 0, 1 and 255, which does not count.
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='sum')
    return total / (labels != IGNORE).sum().clamp_min(1)


@MODELS.register_module()
class PolicyClassifier(BaseModel):
    """A PolicyNet that learns from label maps which superpatches of 32 x 32 pixels show a single class.

    pretrained: True for timm's ImageNet weights, or a policy network's file to start from; loaded by init_weights().
    labels: how labels of superpatches are made, options of datasets.policy_labels.
    data_preprocessor: SegDataPreProcessor, to RGB in [-1, 1]. Images are multiples of 32 pixels wide and high.
    Its checkpoints hold policy.*, and a CTS config takes them by name as policy_checkpoint.
    Raises ConfigError for an option that does not exist.
    """

    size_step = STRIDE  # images and label maps are multiples of it

    def __init__(
        self,
        pretrained: bool | str | None = None,
        labels: Mapping[str, bool] | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.labels = dict(labels or {})
        for key in self.labels:
            if key not in LABEL_RULES:
                raise ConfigError(f'labels has no option {key!r}: its options are {", ".join(LABEL_RULES)}.')
        self.policy = PolicyNet(pretrained)

    def init_weights(self) -> None:
        """Load the weights of `pretrained`. Raises CheckpointError when that fails."""
        self.policy.init_weights()

    def forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None, mode: str = 'tensor'):
        """mode 'tensor': logits (B, 2, H/32, W/32); 'loss': a dict; 'predict': samples with pred_policy, gt_policy."""
        if mode not in ('tensor', 'loss', 'predict'):
            raise ConfigError(f"mode={mode!r} is unknown: it is 'tensor', 'loss' or 'predict'.")
        logits = self.policy(inputs)
        if mode == 'tensor':
            return logits
        labels = policy_labels(torch.stack([s.gt_sem_seg.data[0] for s in data_samples]), **self.labels)
        if mode == 'loss':
            return dict(loss=policy_loss(logits.float(), labels))
        for sample, found, label in zip(data_samples, logits.argmax(1), labels):
            sample.pred_policy, sample.gt_policy = PixelData(data=found[None]), PixelData(data=label[None])
        return data_samples
