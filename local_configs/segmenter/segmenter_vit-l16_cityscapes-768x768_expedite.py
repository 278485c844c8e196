_base_ = [
    '../_base_/models/segmenter_vit-l16_expedite.py',
    '../_base_/datasets/cityscapes_768x768.py',
    '../_base_/schedules/cityscapes_216e.py',
    '../_base_/runtime/default.py',
]

model = dict(
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(img_size=768),
    decode_head=dict(num_classes=19, depth=1),
    test_cfg=dict(crop_size=(768, 768), stride=(512, 512)),
)
