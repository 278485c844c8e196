_base_ = [
    '../_base_/models/segmenter_vit-l16_expedite.py',
    '../_base_/datasets/pascal_context_480x480.py',
    '../_base_/schedules/pascal_context_256e.py',
    '../_base_/runtime/default.py',
]

model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(img_size=480),
    decode_head=dict(num_classes=60),
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
