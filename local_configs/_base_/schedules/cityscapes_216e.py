_base_ = './sgd_poly.py'

optim_wrapper = dict(optimizer=dict(lr=1e-2))
# One epoch: ceil(2975 images / batch 8) = 372 updates. Saved and evaluated every fourth epoch.
train_cfg = dict(max_iters=216 * 372, val_interval=4 * 372)
default_hooks = dict(checkpoint=dict(interval=4 * 372))
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=1e-5, power=0.9, begin=0, end=216 * 372, by_epoch=False)
]
