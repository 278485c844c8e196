_base_ = [
    '../_base_/models/segmenter_vit-s16.py',
    '../_base_/datasets/photo_mosaic.py',
    '../_base_/schedules/photo_mosaic_short.py',
    '../_base_/runtime/default.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=128, depth=6, num_heads=4, patch_size=8),
        img_size=128,
        drop_path_rate=0.0,
        pretrained=None,
    ),
    decode_head=dict(in_channels=128, num_classes=11, depth=1),
    test_cfg=dict(crop_size=(128, 128), stride=(96, 96)),
)
