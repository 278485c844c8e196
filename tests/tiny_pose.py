"""A config that trains a pose network on eight drawn figures in seconds: for tests of tools."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)
default_scope = 'mmpose'
codec = dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=1)
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True),
    backbone=dict(type='mmseg_tr.MiT', reduction={reduction!r},
                  arch=dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))),
    head=dict(type='mmseg_tr.SegformerPoseHead', in_channels=(8, 16, 24, 32), channels=8, num_keypoints=14,
              norm_cfg=dict(type='SyncBN'), decoder=codec),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True))
load = dict(type={load!r})
affine = [dict(type='GetBBoxCenterScale', padding=1.25), dict(type='TopdownAffine', input_size=codec['input_size'])]
pack = dict(type='PackPoseInputs')
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=[load, *affine, dict(type='GenerateTarget', encoder=codec), pack], **{train}))
test_dataloader = dict(
    batch_size=4, num_workers=0, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(pipeline=[load, *affine, pack], test_mode=True, **{val}))
val_dataloader = test_dataloader
test_evaluator = [dict(type='mmseg_tr.PCKAccuracy', thr=(0.1, 0.05)), dict(type='mmseg_tr.CocoMetric')]
val_evaluator = test_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='mmseg_tr.SafeCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=1),
    visualization=dict(type='PoseVisualizationHook', enable=False))
visualizer = dict(type='PoseLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
sync_bn = 'torch'
{more}
"""
SCENES = 6


def write_config(folder: Path, reduction: str | None = None, root: Path | None = None, more: str = '') -> Path:
    """A config over drawn scenes or, with `root`, over the files that write_figures() put there."""

    def part(split: str) -> dict:
        if root is None:
            return dict(type='mmseg_tr.PhotoFigures', split=split, length=SCENES, size=(96, 96))
        files = dict(ann_file=f'annotations/{split}.json', data_prefix=dict(img=f'images/{split}'))
        metainfo = f'{root}/metainfo.py'
        return dict(type='CocoDataset', data_root=str(root), metainfo=dict(from_file=metainfo), **files)

    path = folder / f'tiny-pose_{reduction or "plain"}.py'
    load = 'LoadImage' if root else 'mmseg_tr.LoadFigures'
    path.write_text(CONFIG.format(reduction=reduction, load=load, train=part('train'), val=part('val'), more=more))
    return path


def write_files(root: Path) -> Path:
    """The same scenes as PNG files with annotations in COCO's format, and their description."""
    from mmseg_tr.datasets.figure_files import write_figures
    from mmseg_tr.datasets.metainfo import photo_figures

    for split in ('train', 'val'):
        write_figures(root, split, SCENES, size=(96, 96))
    (root / 'metainfo.py').write_text(Path(photo_figures.__file__).read_text())
    return root
