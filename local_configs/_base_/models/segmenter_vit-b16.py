_base_ = './segmenter_vit-s16.py'

model = dict(backbone=dict(arch='vit_base_patch16_384'), decode_head=dict(in_channels=768))
