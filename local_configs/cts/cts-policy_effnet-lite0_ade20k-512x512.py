_base_ = [
    '../_base_/models/cts-policy_effnet-lite0.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/cts-policy_50k.py',
    '../_base_/runtime/default.py',
]

# The dataset maps label 0 to 255 itself. Images are resized without keeping their shape, as published.
model = dict(labels=dict(ignore_mixed_border=True))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(512, 512), keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(512, 512), keep_ratio=False),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='mmseg_tr.PolicyAccuracy')
test_evaluator = val_evaluator
tta_model = None  # no classes to average
