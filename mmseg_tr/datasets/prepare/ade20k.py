"""ADE20K, the scene parsing benchmark of 150 classes."""

from mmseg_tr.datasets.prepare.download import Archive
from mmseg_tr.datasets.prepare.recipe import Recipe, Wanted

ARCHIVE = Archive(
    'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
    'sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7',
)
SPLITS = {'training': 20210, 'validation': 2000}

RECIPES = (
    Recipe(
        name='ADE20K',
        root='ade20k',
        terms='for non-commercial research and education, see https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/',
        archives=(ARCHIVE,),
        wanted=tuple(
            Wanted(f'ADEChallengeData2016/{kind}/{split}/*.{suffix}', count, ARCHIVE.name)
            for split, count in SPLITS.items()
            for kind, suffix in (('images', 'jpg'), ('annotations', 'png'))
        ),
    ),
)
