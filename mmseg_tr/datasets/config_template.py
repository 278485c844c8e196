"""The text of a new config, complete for training, test and test-time augmentation."""

# reads crop, scale and map_labels of the config around it
_TRAIN_PIPELINE = """train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    *map_labels,
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
"""

TEMPLATE = (
    """# Written by mmseg-tr new-config for your pictures and labels. Change what you like.
custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)
default_scope = 'mmseg'

# ---- schedule: everything that depends on the length of the training
updates = {updates}
interval = {interval}  # updates between validations

# ---- data
classes = {classes}
palette = {palette}
crop = {crop}  # pixels; pictures are resized so that their shorter side has as many
scale = (4 * crop, crop)  # at most four times as long as short
ratios = (0.75, 1.0, 1.25)  # of test-time augmentation, relative to this scale
map_labels = {map_labels}
common = dict(
    type='mmseg_tr.ImageFolders', metainfo=dict(classes=classes, palette=palette), reduce_zero_label={from_one}
)
"""
    + _TRAIN_PIPELINE
    + """# Labels are loaded after the resize: scores are measured at the size of the file.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    *map_labels,
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(int(4 * crop * r), int(crop * r)), keep_ratio=True) for r in ratios],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0, direction='horizontal')],
            [dict(type='LoadAnnotations')],
            *[[one] for one in map_labels],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size={batch},
    num_workers={workers},
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline, {train}, **common),
)
val_dataloader = dict(
    batch_size=1,
    num_workers={workers},
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline, {val}, test_mode=True, **common),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# ---- model: a pretrained encoder and a linear head
model = dict(
    type='mmseg_tr.TokenSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean={mean},
        std={std},
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(crop, crop),
    ),
    backbone=dict(
        type='mmseg_tr.ViT', arch='{arch}', img_size=crop, out='tokens', drop_path_rate=0.1, pretrained=True
    ),
    decode_head=dict(
        type='mmseg_tr.SegmenterLinearHead',
        in_channels={width},
        num_classes=len(classes),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(crop, crop), stride=({stride}, {stride}), window_batch=4),
)
tta_model = dict(type='mmseg_tr.TokenTTAModel')

# ---- training: the head, which starts from random weights, learns ten times faster than the encoder
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr={rate}, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(decode_head=dict(lr_mult=10.0), pos_embed=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=0.0, power=0.9, begin=0, end=updates, warmup={warmup}, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=updates, val_interval=interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# ---- runtime
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmseg_tr.SafeCheckpointHook', by_epoch=False, interval=interval, max_keep_ckpts=1, save_best='mIoU'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
randomness = dict(seed=0)
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
"""
)

POLICY = (
    """# Written by mmseg-tr new-config: trains the policy network of CTS on the same pictures and labels.
_base_ = '{base}'

crop = {policy_crop}  # superpatches of 32 pixels must tile it
scale = (4 * crop, crop)
map_labels = {map_labels}
"""
    + _TRAIN_PIPELINE
    + """test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    *map_labels,
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(
        type='CenterCrop',
        crop_size=(crop, crop),
        auto_pad=True,
        pad_cfg=dict(type='Pad', pad_val=dict(img=0, seg=255)),
    ),
    dict(type='PackSegInputs'),
]
model = dict(
    _delete_=True,
    type='mmseg_tr.PolicyClassifier',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(crop, crop),
    ),
    pretrained=True,
    labels=dict(),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='mmseg_tr.PolicyAccuracy')
test_evaluator = val_evaluator
tta_model = None
# Published: AdamW at a constant rate, which is about ten passes over ADE20K.
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=5e-5, weight_decay=1e-3))
param_scheduler = []
default_hooks = dict(checkpoint=dict(save_best='accuracy', rule='greater'))
"""
)
