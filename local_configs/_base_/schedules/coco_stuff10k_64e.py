_base_ = './sgd_poly.py'

# One epoch: ceil(9000 images / batch 8) = 1125 updates. Saved and evaluated every fourth epoch.
train_cfg = dict(max_iters=64 * 1125, val_interval=4 * 1125)
default_hooks = dict(checkpoint=dict(interval=4 * 1125))
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=1e-5, power=0.9, begin=0, end=64 * 1125, by_epoch=False)
]
