_base_ = './sgd_poly.py'

# Published: a constant learning rate, evaluated every 10,000 updates. fp32.
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=5e-5, weight_decay=1e-3))
param_scheduler = []
train_cfg = dict(max_iters=50000, val_interval=10000)
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=10000, save_best='accuracy', rule='greater'),
)
