_base_ = './sgd_poly.py'

# One epoch: ceil(118287 images / batch 8) = 14786 updates. Saved and evaluated every epoch.
train_cfg = dict(max_iters=16 * 14786, val_interval=14786)
default_hooks = dict(checkpoint=dict(interval=14786))
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=1e-5, power=0.9, begin=0, end=16 * 14786, by_epoch=False)
]
