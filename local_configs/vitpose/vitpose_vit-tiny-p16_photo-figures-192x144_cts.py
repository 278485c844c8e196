_base_ = './vitpose_vit-tiny-p16_photo-figures-192x144.py'

policy_checkpoint = 'work_dirs/cts-policy_effnet-lite0_photo-mosaic-128x128/iter_1000.pth'
model = dict(backbone=dict(reduction=dict(type='CTS', share=0.2, policy_checkpoint=policy_checkpoint)))
