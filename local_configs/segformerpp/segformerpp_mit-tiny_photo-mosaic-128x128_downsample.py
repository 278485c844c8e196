_base_ = './segformerpp_mit-tiny_photo-mosaic-128x128_original.py'

model = dict(backbone=dict(reduction=dict(type='SegFormerPP', preset='downsample')))
