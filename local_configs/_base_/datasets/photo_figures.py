codec = dict(type='MSRAHeatmap', input_size=(144, 192), heatmap_size=(36, 48), sigma=2)

# LoadFigures stands for LoadImage: scenes are drawn when they are asked for.
train_pipeline = [
    dict(type='mmseg_tr.LoadFigures'),
    dict(type='GetBBoxCenterScale', padding=1.25),
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='RandomBBoxTransform', shift_factor=0.1, scale_factor=(0.8, 1.25), rotate_factor=30),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='mmseg_tr.LoadFigures'),
    dict(type='GetBBoxCenterScale', padding=1.25),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='PackPoseInputs'),
]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    # Kept once drawn: 280 MB in each worker.
    dataset=dict(type='mmseg_tr.PhotoFigures', split='train', length=2500, cache=True, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type='mmseg_tr.PhotoFigures', split='val', length=200, test_mode=True, pipeline=val_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type='mmseg_tr.PCKAccuracy', thr=(0.1, 0.05)), dict(type='mmseg_tr.CocoMetric')]
test_evaluator = val_evaluator
