_base_ = '../segmenter/segmenter_vit-b16_ade20k-512x512.py'

model = dict(backbone=dict(reduction=dict(type='MPM', layers=(3, 6))))
