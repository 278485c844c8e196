_base_ = './segformer-pose_mit-b0.py'

model = dict(backbone=dict(arch='b5'), head=dict(in_channels=(64, 128, 320, 512)))
