_base_ = './segformer_mit-b5_ade20k-640x640.py'

train_dataloader = dict(batch_size=8)
