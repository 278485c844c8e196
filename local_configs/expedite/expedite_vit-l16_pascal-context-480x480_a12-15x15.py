_base_ = '../segmenter/segmenter_vit-l16_pascal-context-480x480_expedite.py'

model = dict(
    backbone=dict(
        reduction=dict(
            type='Expedite',
            layer=12,
            clusters=(15, 15),
            iterations=5,
            window=5,
            temperature=0.02,
            k=20,
            reconstruct_temperature=0.02,
        )
    )
)
