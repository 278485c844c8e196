_base_ = '../segmenter/segmenter_vit-s16_coco-stuff164k-512x512.py'

model = dict(backbone=dict(reduction=dict(type='ALGM', layers=(1, 5), window=(2, 2), threshold=0.88)))
