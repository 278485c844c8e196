# CTS's policy network: which superpatches of 32 x 32 pixels show one class. A config adds the rules of its labels.
model = dict(
    type='mmseg_tr.PolicyClassifier',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    pretrained=True,
    labels=dict(),
)
