_base_ = './segformer_mit-b0.py'

model = dict(backbone=dict(arch='b1'), decode_head=dict(in_channels=[64, 128, 320, 512]))
