_base_ = './segformerpp_mit-b5_jbd-640x480_original.py'

model = dict(backbone=dict(merging='bsm_hq'))
