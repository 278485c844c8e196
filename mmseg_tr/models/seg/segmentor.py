"""mmseg's EncoderDecoder with Segmenter's inference, and a check that its head accepts the backbone's output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.contenders import ScoreMap, Winner, contenders, in_parts
from mmseg_tr.nn.inference import average_windows, cut_windows, enlarge_to_window, in_batches, slide
from mmseg_tr.registry import MODELS

TEST_KEYS = ('mode', 'crop_size', 'stride', 'small_images', 'window_batch', 'seg_logits')


@MODELS.register_module()
class TokenSegmentor(EncoderDecoder):
    """Segmentor for backbones that may give reduced tokens.

    test_cfg: dict(mode='whole'), or dict(mode='slide', crop_size=(h, w), stride=(h, w)) with
        small_images='enlarge' (Segmenter: an image whose short side is below the window is enlarged to it) or 'shrink'
        (the window shrinks), and window_batch, the number of windows of an image that run together. Either with
        seg_logits=True, which leaves every sample its logits at full size, as mmseg does; without it samples hold
        labels alone, which come straight from the scores of patches where one window is the whole image.
    Raises ConfigError for other settings, and for a neck or head that cannot take the backbone's tokens.
    """

    def __init__(self, backbone, decode_head, neck=None, auxiliary_head=None, test_cfg=None, **kwargs) -> None:
        test_cfg = check_test_cfg(dict(mode='whole') if test_cfg is None else test_cfg)
        # mmseg reads attributes, which a plain dict lacks
        super().__init__(backbone, decode_head, neck, auxiliary_head, test_cfg=ConfigDict(test_cfg), **kwargs)
        refuse_tokens_in_front_of_maps(self)

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Return predictions at each sample's ori_shape, by default the size of the input."""
        if data_samples is None:  # mmseg would leave predictions at the size of the windowed input
            size = tuple(inputs.shape[2:])
            data_samples = [SegDataSample(metainfo=dict(ori_shape=size, img_shape=size)) for _ in inputs]
        labels = self.predict_labels(inputs, data_samples)
        if labels is not None:
            for sample, label in zip(data_samples, labels):
                sample.pred_sem_seg = PixelData(data=label[None])
        elif self.labels_alone and hasattr(self.decode_head, 'score_map'):
            data_samples = self.predict_contenders(inputs, data_samples)
        else:
            data_samples = super().predict(inputs, data_samples)
        if not self.test_cfg.get('seg_logits', False):
            for sample in data_samples:
                if 'seg_logits' in sample:
                    del sample.seg_logits
        return data_samples

    def predict_labels(self, inputs: Tensor, data_samples: list[SegDataSample]) -> Tensor | None:
        """Return labels (B, H, W) without logits; None if logits are needed, averaged, resized, turned or cut."""
        size, head = tuple(inputs.shape[2:]), self.decode_head
        direct = self.labels_alone and hasattr(head, 'predict_labels') and self.one_window(size)
        if not (direct and all(untouched(sample.metainfo, size) for sample in data_samples)):
            return None
        return head.predict_labels(self.extract_feat(inputs))

    def predict_contenders(self, inputs: Tensor, data_samples: list[SegDataSample]) -> list[SegDataSample]:
        """Return the labels of super().predict(), from logits of the classes that can win somewhere alone."""
        metas = [sample.metainfo for sample in data_samples]
        if self.test_cfg.mode == 'slide':
            inputs = self.windowed(inputs)
            crops, anchors = cut_windows(inputs, tuple(self.test_cfg.crop_size), tuple(self.test_cfg.stride))
        else:
            crops, anchors = [inputs], [(0, 0)]
        windows: list[ScoreMap] = []
        for crop in in_batches(crops, self.test_cfg.get('window_batch', 1)):
            size = tuple(crop.shape[2:])
            if self.test_cfg.mode == 'slide':
                metas = [dict(img_shape=crop.shape[2:])] * len(crop)
            windows += self.decode_head.score_map(self.extract_feat(crop), metas, size).of_images(len(inputs))
        size = tuple(inputs.shape[2:])
        sizes = [size, windows[0].covered, *(tuple(sample.ori_shape[:2]) for sample in data_samples)]
        classes = contenders(windows, anchors, size, sizes)
        winners = [Winner() for _ in data_samples]
        pixels = max(math.prod(size) * len(inputs), *map(math.prod, sizes))
        for part in in_parts(classes, pixels, sizes):
            logits = [window.logits(part) for window in windows]
            mean = logits[0] if len(logits) == 1 else average_windows(logits, anchors, size)
            for winner, sample, image in zip(winners, data_samples, mean):
                winner.add(self.to_original(image, sample.metainfo), part)
        for winner, sample in zip(winners, data_samples):
            sample.pred_sem_seg = PixelData(data=winner.label[None])
        return data_samples

    def to_original(self, logits: Tensor, meta: Mapping[str, Any]) -> Tensor:
        """Return logits (k, H, W) without padding, turned back and at the original size, as postprocess_result()."""
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        logits = logits[:, top : logits.shape[1] - bottom, left : logits.shape[2] - right]
        if meta.get('flip'):
            logits = logits.flip(2 if meta.get('flip_direction') == 'horizontal' else 1)
        return resize(logits[None], meta['ori_shape'][:2], None, 'bilinear', self.align_corners, warning=False)[0]

    @property
    def labels_alone(self) -> bool:
        """Whether samples get labels of several classes and no logits."""
        return self.out_channels > 1 and not self.test_cfg.get('seg_logits', False)

    def one_window(self, size: tuple[int, int]) -> bool:
        """Return whether an input of this size runs whole and unchanged."""
        if self.test_cfg.mode == 'whole':
            return True
        enlarged = self.test_cfg.get('small_images', 'enlarge') == 'enlarge' and min(size) < max(
            self.test_cfg.crop_size
        )
        return tuple(self.test_cfg.crop_size) == size and not enlarged

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return mean logits of overlapping windows (Segmenter, section 4), at the size of the windowed input."""
        crop_size, stride = tuple(self.test_cfg.crop_size), tuple(self.test_cfg.stride)
        inputs = self.windowed(inputs)

        def predict(crops: Tensor) -> Tensor:
            return self.encode_decode(crops, [dict(img_shape=crops.shape[2:])] * len(crops))

        return slide(predict, inputs, crop_size, stride, self.test_cfg.get('window_batch', 1))

    def windowed(self, inputs: Tensor) -> Tensor:
        """Return the images that are cut into windows: enlarged to the window if they are smaller."""
        if self.test_cfg.get('small_images', 'enlarge') == 'enlarge':
            inputs = enlarge_to_window(inputs, max(self.test_cfg.crop_size))
        return inputs


def untouched(meta: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Return whether an input of this size needs no postprocessing: not padded, flipped or resized."""
    padding = meta.get('img_padding_size', meta.get('padding_size', ()))
    return not any(padding) and not meta.get('flip') and tuple(meta['ori_shape'][:2]) == size


def check_test_cfg(test_cfg: dict) -> dict:
    """Return a valid test_cfg. Raises ConfigError."""
    unknown = [key for key in test_cfg if key not in TEST_KEYS]
    if unknown:
        raise ConfigError(f'test_cfg has no setting {unknown[0]!r}: its settings are {", ".join(TEST_KEYS)}.')
    mode, small = test_cfg.get('mode', 'whole'), test_cfg.get('small_images', 'enlarge')
    if mode not in ('whole', 'slide'):
        raise ConfigError(f"test_cfg mode={mode!r} is unknown: it is 'whole' or 'slide'.")
    if small not in ('enlarge', 'shrink'):
        raise ConfigError(f"test_cfg small_images={small!r} is unknown: it is 'enlarge' or 'shrink'.")
    if not isinstance(test_cfg.get('seg_logits', False), bool):
        raise ConfigError(f'test_cfg seg_logits={test_cfg["seg_logits"]!r} must be True or False.')
    if mode == 'whole':
        return test_cfg
    for key in ('crop_size', 'stride'):
        pair = test_cfg.get(key)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or any(side < 1 for side in pair):
            raise ConfigError(f"test_cfg {key}={pair!r}: mode='slide' needs (height, width) in pixels.")
    if any(step > side for step, side in zip(test_cfg['stride'], test_cfg['crop_size'])):
        raise ConfigError(
            f'test_cfg stride={tuple(test_cfg["stride"])} exceeds crop_size={tuple(test_cfg["crop_size"])}: pixels '
            'between windows would have no prediction.'
        )
    if test_cfg.get('window_batch', 1) < 1:
        raise ConfigError(f'test_cfg window_batch={test_cfg["window_batch"]!r} must be 1 or more.')
    return test_cfg


def refuse_tokens_in_front_of_maps(segmentor: EncoderDecoder) -> None:
    """Raise ConfigError when a backbone gives tokens to a neck or head that needs feature maps."""
    if getattr(segmentor.backbone, 'out', 'maps') != 'tokens':
        return
    auxiliary = getattr(segmentor, 'auxiliary_head', None)
    takers: list[nn.Module] = [segmentor.decode_head]
    takers += list(auxiliary) if isinstance(auxiliary, nn.ModuleList) else [auxiliary] if auxiliary else []
    takers += [segmentor.neck] if segmentor.with_neck else []
    for module in takers:
        if not getattr(module, 'takes_tokens', False):
            raise ConfigError(
                f"the backbone gives tokens (out='tokens'), which {type(module).__name__} cannot take: set out='maps' "
                'on the backbone, or use SegmenterMaskHead or SegmenterLinearHead.'
            )
