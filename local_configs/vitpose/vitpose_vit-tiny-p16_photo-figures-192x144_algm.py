_base_ = './vitpose_vit-tiny-p16_photo-figures-192x144.py'

model = dict(backbone=dict(reduction=dict(type='ALGM', layers=(1, 3), window=(2, 2), threshold=0.9)))
