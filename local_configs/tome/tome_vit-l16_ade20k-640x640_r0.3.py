_base_ = '../segmenter/segmenter_vit-l16_ade20k-640x640_expedite.py'

model = dict(backbone=dict(reduction=dict(type='ToMe', form='dense', r=0.3)))
