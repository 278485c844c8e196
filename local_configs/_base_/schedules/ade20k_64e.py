_base_ = './sgd_poly.py'

# One epoch: ceil(20210 images / batch 8) = 2527 updates. Saved every epoch, evaluated every second.
train_cfg = dict(max_iters=64 * 2527, val_interval=2 * 2527)
default_hooks = dict(checkpoint=dict(interval=2527))
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=1e-5, power=0.9, begin=0, end=64 * 2527, by_epoch=False)
]
