_base_ = [
    '../_base_/models/segmenter_vit-l16_expedite.py',
    '../_base_/datasets/ade20k_640x640.py',
    '../_base_/schedules/ade20k_64e.py',
    '../_base_/runtime/default.py',
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(img_size=640),
    test_cfg=dict(crop_size=(640, 640), stride=(640, 640)),
)
