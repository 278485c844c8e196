_base_ = './segmenter_vit-b16_ade20k-512x512.py'

model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=768, depth=12, num_heads=12, patch_size=8), pretrained=None),
    decode_head=dict(
        _delete_=True,
        type='mmseg_tr.SegmenterLinearHead',
        in_channels=768,
        num_classes=150,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
)
