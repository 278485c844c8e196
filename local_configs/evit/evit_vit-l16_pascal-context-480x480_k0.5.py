_base_ = '../segmenter/segmenter_vit-l16_pascal-context-480x480_expedite.py'

model = dict(
    backbone=dict(
        reduction=dict(
            type='EViT', keep_rate=0.5, layers=(8, 14, 20), fuse_token=True, k=1, reconstruct_temperature=0.005
        )
    )
)
