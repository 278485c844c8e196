_base_ = [
    '../_base_/models/cts-policy_effnet-lite0.py',
    '../_base_/datasets/pascal_context_480x480.py',
    '../_base_/schedules/cts-policy_50k.py',
    '../_base_/runtime/default.py',
]

# Background, label 0, is a class of the segmentation network and none here, as published.
model = dict(data_preprocessor=dict(size=(480, 480)), labels=dict(zero_is_ignore=True))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(4096, 512), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(480, 480)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(4096, 512), keep_ratio=True),
    dict(type='CenterCrop', crop_size=(480, 480)),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='mmseg_tr.PolicyAccuracy')
test_evaluator = val_evaluator
tta_model = None  # no classes to average
