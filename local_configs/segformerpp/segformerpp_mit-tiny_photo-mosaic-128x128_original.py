_base_ = [
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/datasets/photo_mosaic.py',
    '../_base_/schedules/photo_mosaic_short.py',
    '../_base_/runtime/default.py',
]

# MiT-B0 at half its width, from scratch: minutes are all there is.
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], size=(128, 128)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, num_layers=(2, 2, 2, 2), num_heads=(1, 2, 5, 8)),
        drop_path_rate=0.0,
        pretrained=None,
    ),
    decode_head=dict(in_channels=[16, 32, 80, 128], channels=64, dropout_ratio=0.0, num_classes=11),
    test_cfg=dict(crop_size=(128, 128), stride=(96, 96)),
)
