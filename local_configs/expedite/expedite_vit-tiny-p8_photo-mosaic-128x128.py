_base_ = '../segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'

# The published temperatures times 1024 / 128: squared distances grow with the width of the tokens.
model = dict(
    backbone=dict(
        reduction=dict(
            type='Expedite', layer=2, clusters=(11, 11), temperature=0.16, k=20, reconstruct_temperature=0.16
        )
    )
)
