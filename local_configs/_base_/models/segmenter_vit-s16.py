# Segmenter with the mask transformer, as for ADE20K at 512: other sizes and class counts are set by the config.
model = dict(
    type='mmseg_tr.TokenSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='mmseg_tr.ViT',
        arch='vit_small_patch16_384',
        img_size=512,
        out='tokens',
        drop_path_rate=0.1,
        pretrained=True,
    ),
    decode_head=dict(
        type='mmseg_tr.SegmenterMaskHead',
        in_channels=384,
        num_classes=150,
        depth=2,
        dropout=0.1,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(480, 480), window_batch=4),
)
