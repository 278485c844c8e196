_base_ = '../segmenter/segmenter_vit-l16_ade20k-640x640.py'

model = dict(backbone=dict(reduction=dict(type='MPM', layers=(3, 6))))
