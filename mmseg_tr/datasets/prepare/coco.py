"""COCO 2017 with its keypoints, for human pose."""

from mmseg_tr.datasets.prepare.download import Archive
from mmseg_tr.datasets.prepare.recipe import Recipe, Wanted

_HOST = 'http://images.cocodataset.org'
TRAIN = Archive(f'{_HOST}/zips/train2017.zip', 'md5:cced6f7f71b7629ddf16f17bbcfab6b2')
VAL = Archive(f'{_HOST}/zips/val2017.zip', 'md5:442b8da7639aecaf257c1dceb8ba8c80')
KEYPOINTS = Archive(f'{_HOST}/annotations/annotations_trainval2017.zip', 'md5:f4bbac642086de4f52a3fdda2de5fa2c')

RECIPES = (
    Recipe(
        name='COCO',
        root='coco',
        terms='annotations under CC BY 4.0, images under the terms of Flickr, see https://cocodataset.org/#termsofuse',
        archives=(KEYPOINTS, VAL, TRAIN),
        wanted=(
            Wanted('annotations/person_keypoints_*2017.json', 2, KEYPOINTS.name),
            Wanted('val2017/*.jpg', 5000, VAL.name),
            Wanted('train2017/*.jpg', 118287, TRAIN.name),
        ),
    ),
)
