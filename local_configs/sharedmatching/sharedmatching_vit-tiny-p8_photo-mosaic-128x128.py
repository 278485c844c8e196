_base_ = '../segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'

model = dict(backbone=dict(reduction=dict(type='SharedMatching', match_every=2)))
