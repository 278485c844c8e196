_base_ = '../segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'

model = dict(backbone=dict(reduction=dict(type='ALGM', layers=(1, 3), window=(2, 2), threshold=0.9)))
