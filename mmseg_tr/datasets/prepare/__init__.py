"""Prepare the public datasets in the layout of the configs: the verb of tools/prepare_dataset.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mmseg_tr.datasets.prepare import ade20k, cityscapes, coco, coco_stuff, jbd, pascal_context
from mmseg_tr.datasets.prepare.download import Archive, Progress, fetch
from mmseg_tr.datasets.prepare.login import log_in
from mmseg_tr.datasets.prepare.recipe import CONVERTED, Recipe, Wanted
from mmseg_tr.datasets.prepare.unpack import unpack
from mmseg_tr.errors import DatasetError

MODULES: dict[str, ModuleType] = dict(
    ade20k=ade20k,
    cityscapes=cityscapes,
    pascal_context=pascal_context,
    coco_stuff=coco_stuff,
    coco=coco,
    jbd=jbd,
)
ARCHIVES = 'archives'  # folder of downloads, shared by the datasets; may be removed in the end


@dataclass(frozen=True)
class Missing:
    """Files that a dataset lacks."""

    wanted: Wanted
    found: int

    def __str__(self) -> str:
        return f'{self.wanted.pattern}: {self.found} of {self.wanted.count} files'


def recipes_of(name: str, parts: tuple[str, ...] | None = None) -> tuple[Recipe, ...]:
    """Return a dataset's recipes. parts: of COCO-Stuff, '10k', '164k' or both. Raises DatasetError for other names."""
    if name not in MODULES:
        raise DatasetError(f'the dataset {name!r} is unknown: it is one of {", ".join(MODULES)}.')
    recipes = MODULES[name].RECIPES
    if parts is None:
        return recipes
    known = [recipe.name.rpartition(' ')[2] for recipe in recipes] if len(recipes) > 1 else []
    unknown = [part for part in parts if part not in known]
    if unknown:
        allowed = f'it has {", ".join(known)}' if known else 'it has none'
        raise DatasetError(f'{name} has no part {unknown[0]!r}: {allowed}.')
    return tuple(recipe for recipe in recipes if recipe.name.rpartition(' ')[2] in parts)


def dataset_folder(folder: str | os.PathLike | None) -> Path:
    """Return the folder of all datasets: the given one, or DATASET's. Raises DatasetError without either."""
    folder = folder or os.environ.get('DATASET')
    if not folder:
        raise DatasetError(
            'the environment variable DATASET is not set: set it to the folder for datasets, or name DIR.'
        )
    return Path(folder)


def check(recipe: Recipe, folder: Path) -> list[Missing]:
    """Return what a dataset lacks below `folder`, in the order of the recipe."""
    root = folder / recipe.root
    found = ((wanted, wanted.found(root)) for wanted in recipe.wanted)
    return [Missing(wanted, count) for wanted, count in found if count < wanted.count]


def advice(recipe: Recipe, missing: list[Missing]) -> list[str]:
    """Return what to do about it, one line per step."""
    lacking = {entry.wanted.source for entry in missing}
    lines = []
    for archive in recipe.archives:
        if archive.name in lacking:
            hash_ = archive.digest or 'none is published, so the file cannot be verified'
            who = ', needs an account' if archive.login else ''
            also = f'; {archive.by_hand}' if archive.by_hand else ''
            lines.append(f'download {archive.url} as {archive.name}{who} (hash: {hash_}){also}')
    if recipe.by_hand:
        lines.append(recipe.by_hand)
    elif CONVERTED in lacking:
        lines.append('convert the labels')
    return lines


def prepare(
    recipe: Recipe, folder: Path, *, mirror: str | None = None, progress: Progress = lambda *_: None
) -> list[str]:
    """Download, unpack and convert what a dataset lacks below `folder`; returns remarks for the user.

    mirror: address of a folder with the archives, in place of their own addresses. Archives already in folder/archives
    are not downloaded. Raises DatasetError when a step fails; finished steps are kept, and another call continues
    after them.
    """
    missing, root, remarks = check(recipe, folder), folder / recipe.root, []
    if not missing:
        return remarks
    if recipe.by_hand and not recipe.ready(root):
        raise DatasetError(f'{recipe.name}: {recipe.by_hand}.')
    lacking = {entry.wanted.source for entry in missing}
    for archive in recipe.archives:
        # conversion may read an archive that is not unpacked, such as a JSON file
        if archive.name in lacking or (CONVERTED in lacking and not _unpacked(archive)):
            remarks += _bring(archive, recipe, folder, mirror, progress)
    recipe.convert(root, folder / ARCHIVES, progress)
    missing = check(recipe, folder)
    if missing:
        raise DatasetError(f'{recipe.name} is not complete in {root}: {"; ".join(map(str, missing))}.')
    return remarks


def _unpacked(archive: Archive) -> bool:
    return archive.name.endswith(('.zip', '.tar', '.tar.gz'))


def _bring(archive: Archive, recipe: Recipe, folder: Path, mirror: str | None, progress: Progress) -> list[str]:
    """Download and unpack one archive; returns remarks."""
    store = folder / ARCHIVES
    if recipe is pascal_context.RECIPES[0] and not _unpacked(archive) and (store / pascal_context.MATLAB).exists():
        return []
    opener = log_in() if archive.login and mirror is None and not (store / archive.name).exists() else None
    path = fetch(archive, store, opener, progress, mirror)
    if _unpacked(archive):
        unpack(path, folder / recipe.root, lambda member: recipe.place(archive.name, member), progress)
    known = archive.digest is not None
    return [] if known else [f'no hash of {archive.name} is published: its content was not verified.']
