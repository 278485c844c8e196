_base_ = './sgd_poly.py'

# One epoch: ceil(4998 images / batch 16) = 313 updates. Saved and evaluated every eighth epoch.
train_cfg = dict(max_iters=256 * 313, val_interval=8 * 313)
default_hooks = dict(checkpoint=dict(interval=8 * 313))
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=1e-5, power=0.9, begin=0, end=256 * 313, by_epoch=False)
]
