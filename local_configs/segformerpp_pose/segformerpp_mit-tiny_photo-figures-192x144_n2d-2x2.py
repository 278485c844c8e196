_base_ = './segformerpp_mit-tiny_photo-figures-192x144_original.py'

model = dict(backbone=dict(reduction=dict(type='SegFormerPP', preset='n2d_2x2')))
