_base_ = '../segmenter/segmenter_vit-l16_cityscapes-768x768_expedite.py'

model = dict(
    backbone=dict(
        reduction=dict(
            type='EViT', keep_rate=0.9, layers=(8, 14, 20), fuse_token=True, k=1, reconstruct_temperature=0.005
        )
    )
)
