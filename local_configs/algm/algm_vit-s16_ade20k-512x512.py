_base_ = '../segmenter/segmenter_vit-s16_ade20k-512x512.py'

model = dict(backbone=dict(reduction=dict(type='ALGM', layers=(1, 5), window=(2, 2), threshold=0.88)))

train_cfg = dict(val_interval=2527)  # every epoch
