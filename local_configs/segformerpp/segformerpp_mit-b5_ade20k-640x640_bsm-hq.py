_base_ = './segformerpp_mit-b5_ade20k-640x640_original.py'

model = dict(backbone=dict(reduction=dict(type='SegFormerPP', preset='bsm_hq')))
