_base_ = './vitpose_vit-tiny-p16_photo-figures-192x144.py'

model = dict(backbone=dict(reduction=dict(type='ToMe', form='dense', r=0.33)))
