_base_ = './vitpose_vit-tiny-p16_photo-figures-192x144.py'

model = dict(backbone=dict(reduction=dict(type='EViT', keep_rate=0.7, layers=(2, 4))))
