"""How to run a network from a normalised image to scores, logits and labels, and the same network without reduction.

Networks are told by what they offer: mmseg_tr.nn.Segmenter and SegFormer, segmentors of mmseg (this package's and
others), pose estimators of mmpose, and any module that takes an image. Nothing of OpenMMLab is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.nn.labels import enlarged_labels
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.nn.segmenter import Segmenter, enlarge_scores
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction import Reduction
from mmseg_tr.reduction.segformerpp.settings import Merging


@dataclass(frozen=True)
class Network:
    """The two steps of a forward.

    scores: images (B, 3, H, W) -> what the decoder gives, for segmentation class scores on its grid (B, K, h, w).
    enlarge: (scores, images) -> logits at the size of the images, (B, K, H, W).
    classes: (scores, images) -> their argmax, (B, H, W), without the logits; None where that cannot be had.
    """

    scores: Callable[[Tensor], Any]
    enlarge: Callable[[Any, Tensor], Any]
    classes: Callable[[Tensor, Tensor], Tensor] | None = None

    def labels(self, scores: Any, image: Tensor) -> Any:
        """Class of every pixel, (B, H, W); for a network without classes per pixel, what it gave."""
        if self.classes is not None and scores.shape[1] > 1:
            return self.classes(scores, image)
        logits = self.enlarge(scores, image)
        if not isinstance(logits, Tensor) or logits.dim() != 4:
            return logits
        return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0


@dataclass(frozen=True)
class PoseNetwork(Network):
    """The steps of a pose estimator. scores: images -> heatmaps (B, K, h, w); decode: heatmaps -> keypoints."""

    decode: Callable[[Any], Any] = lambda scores: scores

    def labels(self, scores: Any, image: Tensor) -> Any:
        """Keypoints and their scores per image, as the head's codec decodes them."""
        return self.decode(scores)


def network_of(model: nn.Module) -> Network:
    """The steps of `model`."""
    if isinstance(model, Segmenter):
        return _enlarging(model.scores, model.encoder.patch_size)
    if isinstance(model, SegFormer):
        return _enlarging(model.scores, None)
    if hasattr(model, 'encode_decode') and hasattr(model, 'decode_head'):
        return _segmentor(model)
    if is_pose(model):
        return _pose_estimator(model)
    return Network(model, _as_it_is)


def is_pose(model: nn.Module) -> bool:
    """Whether `model` is a pose estimator of mmpose with a head, whose labels are keypoints."""
    return hasattr(model, 'extract_feat') and hasattr(model, 'add_pred_to_datasample') and hasattr(model, 'head')


def _pose_estimator(model: nn.Module) -> Network:
    """A top-down pose estimator of mmpose, once over each image: without the flip test."""
    head = model.head
    decode = head.decode if getattr(head, 'decoder', None) is not None else lambda scores: scores
    return PoseNetwork(lambda image: head.forward(model.extract_feat(image)), _as_it_is, decode=decode)


def _segmentor(model: nn.Module) -> Network:
    """A segmentor of mmseg. Heads that cannot be stopped before the enlargement run whole, as `scores`."""
    head, backbone = model.decode_head, model.backbone
    if getattr(head, 'takes_tokens', False) and getattr(backbone, 'out', None) == 'tokens':
        return _enlarging(model, backbone.patch_size if head.enlarge == 'padded' else None)
    predict = getattr(type(head), 'predict', None)
    if predict is None or (predict.__module__ != _BASE_HEAD and not getattr(head, 'takes_tokens', False)):
        return Network(lambda image: model.encode_decode(image, _metas(image)), _as_it_is)
    if head.predict_by_feat.__func__.__module__ == _BASE_HEAD and not head.align_corners:
        return _enlarging(model, None)  # what the base class does
    return Network(model, lambda scores, image: head.predict_by_feat(scores, _metas(image)))


_BASE_HEAD = 'mmseg.models.decode_heads.decode_head'


def _metas(image: Tensor) -> list[dict]:
    size = image.shape[2:]
    return [dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=(0, 0, 0, 0))] * len(image)


def _as_it_is(scores: Any, image: Tensor) -> Any:
    return scores


def _enlarging(scores: Callable[[Tensor], Any], patch_size: tuple[int, int] | None) -> Network:
    """A network whose scores are enlarged by enlarge_scores()."""

    def to_image(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda scores, image: function(scores, tuple(image.shape[-2:]), patch_size)

    return Network(scores, to_image(enlarge_scores), to_image(enlarged_labels))


def reduction_of(model: nn.Module) -> Reduction | Merging | None:
    """The token-reduction method of `model`, of a MiT what it merges, or None."""
    for module in model.modules():
        reduction, merging = getattr(module, 'reduction', None), getattr(module, 'merging', None)
        if isinstance(reduction, Reduction):
            return reduction
        if isinstance(merging, Merging) and merging.active:
            return merging
    return None


def method_name(reduction: Reduction | Merging) -> str:
    """What a method is called in tables."""
    return 'SegFormer++' if isinstance(reduction, Merging) else type(reduction).__name__


def without_reduction(model: nn.Module) -> nn.Module:
    """The plain model: the same modules around the same weights (not copied), with nothing reduced or merged."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    plain = copy.deepcopy(model, shared)
    for module in plain.modules():
        if isinstance(getattr(module, 'reduction', None), Reduction):
            module.reduction = None
        if isinstance(getattr(module, 'merging', None), Merging):
            module.merging = module.merging.nothing()
    return plain


def count_params(model: nn.Module) -> int:
    """Parameters that a forward can use: those of auxiliary heads, which only training needs, are left out."""
    names = dict(model.named_parameters())
    return sum(parameter.numel() for name, parameter in names.items() if not name.startswith('auxiliary_head.'))


@torch.inference_mode()
def tokens_per_layer(vit: ViT, batches: Iterable[Tensor]) -> list[float]:
    """Mean number of tokens that leave each layer, over all images; prefix tokens included."""
    per_image = []
    for batch in batches:
        per_image += zip(*vit.forward_tokens(batch).trace, strict=True)
    return [sum(counts) / len(per_image) for counts in zip(*per_image, strict=True)]


def plain_tokens(vit: ViT, batch: Tensor) -> int:
    """Tokens of one image of the batch without reduction, prefix tokens included."""
    height, width = (-(-side // patch) for side, patch in zip(batch.shape[-2:], vit.patch_size))
    return vit.num_prefix + height * width
