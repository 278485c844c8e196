_base_ = '../segmenter/segmenter_vit-s16_cityscapes-768x768.py'

policy_checkpoint = 'work_dirs/cts-policy_effnet-lite0_cityscapes-768x768/iter_50000.pth'
model = dict(
    backbone=dict(reduction=dict(type='CTS', shared=336, policy_checkpoint=policy_checkpoint)),
)

train_cfg = dict(val_interval=8 * 372)  # every eighth epoch
