_base_ = './vitpose_vit-tiny-p16_photo-figures-192x144.py'

model = dict(
    backbone=dict(
        reduction=dict(type='Expedite', layer=2, clusters=(8, 6), temperature=0.16, k=20, reconstruct_temperature=0.16)
    )
)
