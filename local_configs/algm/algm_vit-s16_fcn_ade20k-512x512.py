_base_ = './algm_vit-s16_ade20k-512x512.py'

# The merged tokens are restored inside the backbone: mmsegmentation's heads see an ordinary map.
model = dict(
    backbone=dict(out='maps'),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=384,
        in_index=-1,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
)
# Under several GPUs the head's batch norms are made synchronous.
sync_bn = 'torch'
