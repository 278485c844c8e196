_base_ = './sgd_poly.py'

# From scratch in minutes on two CPU cores: AdamW with a short warm-up instead of the published SGD.
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
train_cfg = dict(max_iters=2400, val_interval=800)
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=250))
param_scheduler = [
    dict(type='mmseg_tr.SegmenterPolyLR', eta_min=1e-5, power=0.9, begin=0, end=2400, warmup=100, by_epoch=False)
]
