"""Pictures of every format, and configs that read and normalise them in every way, for tests of what networks see."""

import numpy as np
from mmengine.config import Config
from PIL import Image

USUAL = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)
# what a model does to a picture, by what is special about it
PREPROCESSORS = {
    'usual': USUAL,
    'nothing': {},
    'blue first': dict(mean=[103.5, 116.3, 123.7], std=[57.4, 57.1, 58.4]),
    'rgb_to_bgr': dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], rgb_to_bgr=True),
    'padded': dict(**USUAL, pad_val=7, size=(32, 32), test_cfg=dict(size_divisor=32)),
}
LOAD, LABELS, PACK = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')
RESIZE = dict(type='Resize', scale=(96, 48), keep_ratio=True)
PIPELINES = {
    'as it is': [LOAD, LABELS, PACK],
    'resized': [LOAD, RESIZE, LABELS, PACK],
    'float': [dict(LOAD, to_float32=True), LABELS, RESIZE, PACK],
    'normalises': [LOAD, dict(type='Normalize', mean=[10, 20, 30], std=[3, 2, 1], to_rgb=True), LABELS, PACK],
    'Pillow': [dict(LOAD, imdecode_backend='pillow'), LABELS, PACK],
}


def picture(kind: str, path) -> None:
    """A picture of 40 x 56 pixels, stored 56 x 40 where its orientation turns it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    if kind == 'grey16':
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path / '0.png')
    elif kind == 'exif':
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels.transpose(1, 0, 2)).save(path / '0.jpg', exif=exif)
    elif kind == 'palette':
        Image.fromarray(pixels).convert('P').save(path / '0.png')
    else:
        Image.fromarray(pixels).convert(kind).save(path / '0.png')


def settings(root, suffix='.png', preprocessor=USUAL, pipeline=PIPELINES['as it is'], channels=3, **model) -> Config:
    dataset = dict(
        type='BaseSegDataset',
        metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [9, 9, 9]]),
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix=suffix,
        pipeline=pipeline,
        test_mode=True,
        serialize_data=False,  # which would collect garbage for seconds
    )
    network = dict(
        type='mmseg_tr.TokenSegmentor',
        data_preprocessor=dict(type='SegDataPreProcessor', **preprocessor),
        backbone=dict(
            type='mmseg_tr.ViT',
            arch=dict(embed_dim=16, depth=1, num_heads=2, patch_size=8),
            img_size=32,
            in_chans=channels,
            out='tokens',
        ),
        decode_head=dict(type='mmseg_tr.SegmenterLinearHead', in_channels=16, num_classes=2),
        test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(24, 24)),
    )
    return Config(dict(default_scope='mmseg', model=network | model, test_dataloader=dict(dataset=dataset)))


def folder(root, kind='RGB'):
    for name in ('images', 'labels'):
        (root / name).mkdir(parents=True)
    picture(kind, root / 'images')
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(root / 'labels' / '0.png')
    return root
