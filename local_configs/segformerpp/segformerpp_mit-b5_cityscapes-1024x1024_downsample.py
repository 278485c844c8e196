_base_ = './segformerpp_mit-b5_cityscapes-1024x1024_original.py'

model = dict(backbone=dict(reduction=dict(type='SegFormerPP', preset='downsample')))
