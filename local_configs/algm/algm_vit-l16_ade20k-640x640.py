_base_ = '../segmenter/segmenter_vit-l16_ade20k-640x640.py'

model = dict(backbone=dict(reduction=dict(type='ALGM', layers=(1, 7), window=(2, 2), threshold=0.95)))

train_cfg = dict(val_interval=2527)  # every epoch
