_base_ = './segformerpp_mit-tiny_photo-figures-192x144_original.py'

model = dict(backbone=dict(merging='bsm_hq'))
