_base_ = '../segmenter/segmenter_vit-l16_cityscapes-768x768_expedite.py'

model = dict(backbone=dict(reduction=dict(type='ToMe', form='dense', r=0.3)))
