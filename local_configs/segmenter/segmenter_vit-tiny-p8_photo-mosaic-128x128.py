_base_ = [
    '../_base_/models/segmenter_vit-s16.py',
    '../_base_/datasets/photo_mosaic.py',
    '../_base_/schedules/photo_mosaic_short.py',
    '../_base_/runtime/default.py',
]

# Decodes linearly: the mask transformer learns more slowly and costs more, and minutes are all there is.
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=128, depth=6, num_heads=4, patch_size=8),
        img_size=128,
        drop_path_rate=0.0,
        pretrained=None,
    ),
    decode_head=dict(
        _delete_=True,
        type='mmseg_tr.SegmenterLinearHead',
        in_channels=128,
        num_classes=11,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
    test_cfg=dict(crop_size=(128, 128), stride=(96, 96)),
)
