_base_ = '../segmenter/segmenter_vit-l16_ade20k-640x640_expedite.py'

model = dict(
    backbone=dict(
        reduction=dict(
            type='Expedite',
            layer=10,
            clusters=(28, 28),
            iterations=5,
            window=5,
            temperature=0.02,
            k=20,
            reconstruct_temperature=0.02,
        )
    )
)
