"""How to run a network from a normalised image to scores, logits and labels, and the same network without reduction.

Recognised by their attributes: mmseg_tr.nn.Segmenter and SegFormer, segmentors of mmseg (this package's and
others), pose estimators of mmpose, and any module that takes an image. Nothing of OpenMMLab is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from mmseg_tr.analysis.mac_rules import OTHER_RULE
from mmseg_tr.nn.backbone import Backbone, same_weights
from mmseg_tr.nn.labels import enlarged_labels, pixel_classes
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.nn.segmenter import Segmenter, enlarge_scores
from mmseg_tr.reduction import Reduction


@dataclass(frozen=True)
class Steps:
    """The two steps of a forward.

    scores: images (B, 3, H, W) -> what the decoder gives, for segmentation class scores on its grid (B, K, h, w).
    enlarge: (scores, images) -> logits at the size of the images, (B, K, H, W).
    classes: (scores, images) -> their argmax, (B, H, W), without the logits; None where that is not available.
    threshold: of the sigmoid of a single output channel; None for the default of nn.labels.pixel_classes().
    """

    scores: Callable[[Tensor], Any]
    enlarge: Callable[[Any, Tensor], Any]
    classes: Callable[[Tensor, Tensor], Tensor] | None = None
    threshold: float | None = None

    def labels(self, scores: Any, image: Tensor) -> Any:
        """Return the class of every pixel, (B, H, W); for a network without classes per pixel, its output."""
        if self.classes is not None and scores.shape[1] > 1:
            return self.classes(scores, image)
        logits = self.enlarge(scores, image)
        if not isinstance(logits, Tensor) or logits.dim() != 4:
            return logits
        return pixel_classes(logits, self.threshold)


@dataclass(frozen=True)
class PoseSteps(Steps):
    """The steps of a pose estimator. scores: images -> heatmaps (B, K, h, w); decode: heatmaps -> keypoints."""

    decode: Callable[[Any], Any] = lambda scores: scores

    def labels(self, scores: Any, image: Tensor) -> Any:
        """Return keypoints and their scores per image, as the head's codec decodes them."""
        return self.decode(scores)


def network_of(model: nn.Module) -> Steps:
    """Return the steps of `model`."""
    if isinstance(model, Segmenter):
        return _enlarging(model.scores, model.encoder.patch_size)
    if isinstance(model, SegFormer):
        return _enlarging(model.scores, None)
    if hasattr(model, 'encode_decode') and hasattr(model, 'decode_head'):
        return replace(_segmentor(model), threshold=getattr(model.decode_head, 'threshold', None))
    if is_pose(model):
        return _pose_estimator(model)
    return Steps(model, _as_it_is)


def is_pose(model: nn.Module) -> bool:
    """Whether `model` is a pose estimator of mmpose with a head, whose labels are keypoints."""
    return hasattr(model, 'extract_feat') and hasattr(model, 'add_pred_to_datasample') and hasattr(model, 'head')


def _pose_estimator(model: nn.Module) -> Steps:
    """Return a top-down pose estimator of mmpose, once over each image: without the flip test."""
    head = model.head
    decode = head.decode if getattr(head, 'decoder', None) is not None else lambda scores: scores
    return PoseSteps(lambda image: head.forward(model.extract_feat(image)), _as_it_is, decode=decode)


def _segmentor(model: nn.Module) -> Steps:
    """Return a segmentor of mmseg. Heads that cannot be stopped before the enlargement run whole, as `scores`."""
    head, backbone = model.decode_head, model.backbone
    if getattr(head, 'takes_tokens', False) and getattr(backbone, 'out', None) == 'tokens':
        return _enlarging(model, backbone.patch_size if head.enlarge == 'padded' else None)
    predict = getattr(type(head), 'predict', None)
    if predict is None or (predict.__module__ != _BASE_HEAD and not getattr(head, 'takes_tokens', False)):
        return Steps(lambda image: model.encode_decode(image, _metas(image)), _as_it_is)
    if head.predict_by_feat.__func__.__module__ == _BASE_HEAD and not head.align_corners:
        return _enlarging(model, None)  # what the base class does
    return Steps(model, lambda scores, image: head.predict_by_feat(scores, _metas(image)))


_BASE_HEAD = 'mmseg.models.decode_heads.decode_head'


def _metas(image: Tensor) -> list[dict]:
    size = image.shape[2:]
    return [dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=(0, 0, 0, 0))] * len(image)


def _as_it_is(scores: Any, image: Tensor) -> Any:
    return scores


def _enlarging(scores: Callable[[Tensor], Any], patch_size: tuple[int, int] | None) -> Steps:
    """Return a network whose scores are enlarged by enlarge_scores()."""

    def to_image(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda scores, image: function(scores, tuple(image.shape[-2:]), patch_size)

    return Steps(scores, to_image(enlarge_scores), to_image(enlarged_labels))


def find_backbone(model: nn.Module) -> Backbone | None:
    """Return the first backbone of this package inside `model`, or None."""
    return next((module for module in model.modules() if isinstance(module, Backbone)), None)


def reduction_of(model: nn.Module) -> Reduction | None:
    """Return the token-reduction method of `model`, or None; also one that mmseg_tr.apply() set on another network."""
    backbone = find_backbone(model)
    if backbone is not None:
        return backbone.reduction
    applied = (getattr(vars(module).get('forward'), 'applied', None) for module in model.modules())
    return next((one.method for one in applied if one is not None), None)


def method_name(reduction: Reduction) -> str:
    """Return what a method is called in tables."""
    return reduction.name


def is_adaptive(model: nn.Module) -> bool:
    """Whether the image decides how many tokens `model` keeps."""
    reduction = reduction_of(model)
    return reduction is not None and reduction.adaptive


def count_rule_of(model: nn.Module) -> str:
    """Return the counting rule that the publications of a model's method, else of its backbone, follow."""
    backbone, reduction = find_backbone(model), reduction_of(model)
    if backbone is None:
        return OTHER_RULE
    return (reduction or backbone).count_rule


def with_reduction(model: nn.Module, reduction: dict | str | Reduction | None) -> nn.Module:
    """Return the model under another method: new modules around the same weights, which are not copied."""
    backbone = find_backbone(model)
    return same_weights(model, {} if backbone is None else {id(backbone): backbone.with_reduction(reduction)})


def without_reduction(model: nn.Module) -> nn.Module:
    """Return the plain model around the same weights, with nothing reduced."""
    return with_reduction(model, None)


def count_params(model: nn.Module) -> int:
    """Parameters that a forward can use: those of auxiliary heads, which only training needs, are left out."""
    names = dict(model.named_parameters())
    return sum(parameter.numel() for name, parameter in names.items() if not name.startswith('auxiliary_head.'))
