_base_ = '../segmenter/segmenter_vit-l16_ade20k-640x640.py'

model = dict(backbone=dict(reduction=dict(type='ToMe', form='original', r=28)))
