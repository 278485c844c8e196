_base_ = './segformer_mit-b0_coco-384x288.py'

model = dict(backbone=dict(arch='b5'), head=dict(in_channels=(64, 128, 320, 512)))
