_base_ = '../segmenter/segmenter_vit-ti16_ade20k-512x512.py'

model = dict(backbone=dict(reduction=dict(type='ALGM', layers=(1, 5), window=(2, 2), threshold=0.9)))

train_cfg = dict(val_interval=2527)  # every epoch
