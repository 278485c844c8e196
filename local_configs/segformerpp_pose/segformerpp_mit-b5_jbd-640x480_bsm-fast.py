_base_ = './segformerpp_mit-b5_jbd-640x480_original.py'

model = dict(backbone=dict(reduction=dict(type='SegFormerPP', preset='bsm_fast')))
