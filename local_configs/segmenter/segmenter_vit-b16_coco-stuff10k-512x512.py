_base_ = [
    '../_base_/models/segmenter_vit-b16.py',
    '../_base_/datasets/coco_stuff10k_512x512.py',
    '../_base_/schedules/coco_stuff10k_64e.py',
    '../_base_/runtime/default.py',
]

model = dict(decode_head=dict(num_classes=171))
