_base_ = '../segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'

model = dict(backbone=dict(reduction=dict(type='CubistMerge', layer=2, r=3)))
