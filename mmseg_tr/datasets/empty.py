"""Explain in one sentence why a dataset has no item."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any


def why_empty(config: Mapping[str, Any]) -> str:
    """Return what an empty dataset lacks: images in its folder, or usable entries in its annotation file.

    Of a wrapper the first dataset that names a folder or a file is described.
    """
    inner = [config, config.get('dataset'), *(config.get('datasets') or ())]
    chosen = next((one for one in inner if isinstance(one, Mapping) and _names_files(one)), config)
    kind, root = str(config.get('type')), chosen.get('data_root') or ''
    if chosen.get('ann_file'):
        return f'{kind} is empty: {_annotations(os.path.join(root, chosen["ann_file"]))}.'
    prefixes = chosen.get('data_prefix') or {}
    folder = next((prefixes[key] for key in ('img_path', 'img') if prefixes.get(key)), '')
    where = os.path.join(root, folder) or chosen.get('images') or 'it'
    suffix = f' whose name ends in {chosen["img_suffix"]}' if chosen.get('img_suffix') else ''
    return f'{kind} is empty: there is no image{suffix} in {where}.'


def _names_files(config: Mapping[str, Any]) -> bool:
    return any(config.get(key) for key in ('ann_file', 'data_prefix', 'data_root', 'images'))


def _annotations(path: str) -> str:
    """Return why the entries of an annotation file are unusable."""
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except ValueError:  # a list of names
        return f'the list {path} names no image'
    except (OSError, RecursionError):
        return f'{path} cannot be read'
    images, entries = (_listed(content, key) for key in ('images', 'annotations'))
    if not entries:
        return f'{path} holds {len(images)} images and no annotations'
    reasons = Counter(_reason(entry) for entry in entries)
    shown = ', '.join(f'{count} {reason}' for reason, count in reasons.most_common())
    return f'none of the {len(entries)} annotations of {path} can be used ({shown})'


def _listed(content: Any, key: str) -> list[Any]:
    """Return a list of an annotation file; an empty one where it has none."""
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def _reason(entry: Any) -> str:
    """Return why mmpose leaves an annotation out."""
    if not isinstance(entry, dict):
        return 'not a dict'
    box, keypoints = entry.get('bbox'), entry.get('keypoints')
    if not isinstance(box, list) or len(box) != 4:
        return 'without a box'
    if not isinstance(keypoints, list) or not keypoints:
        return 'without keypoints'
    if entry.get('iscrowd'):
        return 'of crowds'
    if not any(flag for flag in keypoints[2::3]):
        return 'without a visible keypoint'
    return 'with an empty box' if min(box[2:]) < 1 else 'of another category or image'
