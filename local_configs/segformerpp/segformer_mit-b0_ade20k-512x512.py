_base_ = [
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/runtime/default.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    test_cfg=dict(_delete_=True, mode='whole'),
)
train_dataloader = dict(batch_size=16)
