_base_ = '../segmenter/segmenter_vit-l16_ade20k-640x640.py'

policy_checkpoint = 'work_dirs/cts-policy_effnet-lite0_ade20k-512x512/iter_50000.pth'
model = dict(
    backbone=dict(reduction=dict(type='CTS', shared=160, policy_checkpoint=policy_checkpoint)),
    test_cfg=dict(stride=(512, 512)),
)
