_base_ = './segmenter_vit-b16.py'

# ImageNet statistics as published: times 255, rounded to two decimals.
model = dict(
    data_preprocessor=dict(mean=[123.68, 116.28, 103.53], std=[58.4, 57.12, 57.38]),
    backbone=dict(arch='deit_base_distilled_patch16_384'),
)
