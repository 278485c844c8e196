_base_ = [
    '../_base_/models/cts-policy_effnet-lite0.py',
    '../_base_/datasets/cityscapes_768x768.py',
    '../_base_/schedules/cts-policy_50k.py',
    '../_base_/runtime/default.py',
]

model = dict(data_preprocessor=dict(size=(768, 768)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(768, 768)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CenterCrop', crop_size=(768, 768)),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='mmseg_tr.PolicyAccuracy')
test_evaluator = val_evaluator
tta_model = None  # no classes to average
