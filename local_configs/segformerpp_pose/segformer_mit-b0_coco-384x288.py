_base_ = [
    '../_base_/models/segformer-pose_mit-b0.py',
    '../_base_/datasets/coco_384x288.py',
    '../_base_/schedules/pose_210e.py',
    '../_base_/runtime/pose.py',
]

model = dict(head=dict(num_keypoints=17, decoder={{_base_.codec}}))
