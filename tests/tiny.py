"""A data set of eight 32x32 pictures, and configs that train on it in a second: for tests of tools and loops."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ('dark', 'medium', 'bright')

CONFIG = """
custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)
default_scope = 'mmseg'
model = dict(
    type='mmseg_tr.TokenSegmentor',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True,
                           pad_val=0, seg_pad_val=255, size=(32, 32)),
    backbone=dict(type='mmseg_tr.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2, patch_size=8), img_size=32,
                  out='tokens'),
    decode_head=dict(type='mmseg_tr.SegmenterLinearHead', in_channels=32, num_classes=3,
                     loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(24, 24)))
common = dict(type='BaseSegDataset', metainfo=dict(classes={classes!r}, palette=[[0, 0, 0], [9, 9, 9], [255, 255, 0]]),
              data_root={root!r}, data_prefix=dict(img_path='images', seg_map_path='labels'), img_suffix='.png',
              serialize_data=False)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
                 **common))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
                 test_mode=True, **common))
val_dataloader = test_dataloader
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
val_evaluator = test_evaluator
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 1.5)],
        [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1., direction='horizontal')],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [dict(type='mmseg_tr.SegmenterPolyLR', end=4, by_epoch=False)]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='mmseg_tr.SafeCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=1),
    visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
{more}
"""


def write_dataset(root: Path, count: int = 8, size: tuple[int, int] = (32, 32)) -> Path:
    """Pictures whose brightness is their label, in patches of 8x8, with the first row of each left unlabelled."""
    rng = np.random.default_rng(0)
    for name in ('images', 'labels'):
        (root / name).mkdir(parents=True)
    for index in range(count):
        label = rng.integers(0, len(CLASSES), (size[0] // 8, size[1] // 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        image = label[..., None] * np.uint8(90) + rng.integers(0, 60, (*size, 3)).astype(np.uint8)
        label[0] = 255
        Image.fromarray(image).save(root / 'images' / f'{index:02d}.png')
        Image.fromarray(label).save(root / 'labels' / f'{index:02d}.png')
    return root


def write_config(folder: Path, root: Path, more: str = '', name: str = 'tiny.py') -> Path:
    """A config over the data set `root`; `more` is appended to its text."""
    path = folder / name
    path.write_text(CONFIG.format(root=str(root), classes=CLASSES, more=more))
    return path
