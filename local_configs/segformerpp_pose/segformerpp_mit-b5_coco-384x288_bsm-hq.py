_base_ = './segformerpp_mit-b5_coco-384x288_original.py'

model = dict(backbone=dict(reduction=dict(type='SegFormerPP', preset='bsm_hq')))
