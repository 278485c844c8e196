_base_ = './vitpose_vit-tiny-p16_photo-figures-192x144.py'

model = dict(backbone=dict(reduction=dict(type='ACT', q_hashes=8)))
