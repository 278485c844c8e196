_base_ = './segformer_mit-b0_jbd-640x480.py'

model = dict(backbone=dict(arch='b5'), head=dict(in_channels=(64, 128, 320, 512)))
