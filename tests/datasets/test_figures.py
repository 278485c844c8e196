"""Figures: the same everywhere, labelled where they are drawn, apart between the splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.datasets.figure_drawing import draw_figure_scene, paint
from mmseg_tr.datasets.figure_files import JOINTS
from mmseg_tr.datasets.figure_labels import FACE, HIDDEN, VISIBLE, label_figures
from mmseg_tr.datasets.figure_scenes import make_figure_scene
from mmseg_tr.datasets.figures import POINTS, Figure, FigureScene, Limb, Prop
from mmseg_tr.errors import ConfigError

SIZE = (96, 128)


def scenes(count=60, size=SIZE, split='train', seed=0):
    return [make_figure_scene(size, seed, split, index) for index in range(count)]


def test_a_scene_is_the_same_every_time_and_unlike_every_other():
    pictures = [
        draw_figure_scene(SIZE, seed, split, index) for seed in (0, 1) for split in ('train', 'val') for index in (0, 1)
    ]
    again = [
        draw_figure_scene(SIZE, seed, split, index) for seed in (0, 1) for split in ('train', 'val') for index in (0, 1)
    ]
    for one, other in zip(pictures, again):
        np.testing.assert_array_equal(one, other)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert pictures[0].shape == (*SIZE, 3) and pictures[0].dtype == np.uint8


def test_splits_show_different_parts_of_the_photographs(monkeypatch):
    asked = []
    monkeypatch.setattr(
        'mmseg_tr.datasets.figure_drawing.photograph_part', lambda name, split, zoom: asked.append(split) or grey
    )
    monkeypatch.setattr(
        'mmseg_tr.datasets.scenes.photograph_part', lambda name, split, zoom: asked.append(split) or grey
    )
    grey = np.full((40, 40, 3), 128, np.uint8)
    for index in range(6):
        draw_figure_scene(SIZE, 0, 'val', index)
    assert set(asked) == {'val'}


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 160), st.integers(8, 160), st.integers(0, 10**6))
def test_labels_lie_inside_any_picture(height, width, index):
    scene = make_figure_scene((height, width), 0, 'val', index)
    for label in label_figures(scene, POINTS):
        x, y, flags = label.keypoints.T
        assert set(flags) <= {0, HIDDEN, VISIBLE}
        assert (x >= 0).all() and (x <= width - 1).all() and (y >= 0).all() and (y <= height - 1).all()
        assert (label.keypoints[flags == 0] == 0).all()
        left, top, wide, high = label.box
        assert left >= 0 and top >= 0 and left + wide <= width - 1 + 1e-6 and top + high <= height - 1 + 1e-6
        seen = flags > 0
        assert (x[seen] >= left - 1e-6).all() and (x[seen] <= left + wide + 1e-6).all()
        assert (y[seen] >= top - 1e-6).all() and (y[seen] <= top + high + 1e-6).all()


def test_every_kind_of_scene_comes_about():
    made = scenes(120)
    figures = [figure for scene in made for figure in scene.figures]
    flags = np.concatenate(
        [label.keypoints[:, 2] for scene in made for label in label_figures(scene, JOINTS['photo_figures'])]
    )
    assert {len(scene.figures) for scene in made} == {1, 2}
    assert 0.1 < np.mean([figure.from_behind for figure in figures]) < 0.4
    assert 0.2 < np.mean([figure.prop is not None for figure in figures]) < 0.5
    shares = [(flags == flag).mean() for flag in (0, HIDDEN, VISIBLE)]
    assert 0.001 < shares[0] < 0.1 and 0.05 < shares[1] < 0.4 and shares[2] > 0.6


def test_left_is_on_the_right_of_the_picture_for_who_faces_us():
    place = {name: POINTS.index(name) for name in ('left_shoulder', 'right_shoulder')}
    for figure in (figure for scene in scenes() for figure in scene.figures):
        left, right = (figure.points[place[name]].real for name in place)
        assert (left > right) != figure.from_behind


def test_no_colour_tells_left_from_right():
    """Clothes and skin are one per figure, so that its mirror image is a figure too."""
    for figure in (figure for scene in scenes(10) for figure in scene.figures):
        cloths = {limb.name.replace('left_', '').replace('right_', ''): set() for limb in figure.limbs}
        for limb in figure.limbs:
            cloths[limb.name.replace('left_', '').replace('right_', '')].add(limb.cloth)
        assert all(len(cloth) == 1 for cloth in cloths.values())


def test_a_face_is_seen_from_the_front_only():
    for scene in scenes():
        for figure, label in zip(scene.figures, label_figures(scene, FACE)):
            if figure.from_behind:
                assert (label.keypoints[:, 2] < VISIBLE).all()
    assert any((label.keypoints[:, 2] == VISIBLE).all() for scene in scenes() for label in label_figures(scene, FACE))


def bare(points=None, limbs=(), prop=None):
    """A figure that is drawn as `limbs` and a head far away."""
    head = Limb('head', 1000 + 0j, 1000 + 0j, (1.0, 1.0), 'head')
    places = np.full(len(POINTS), 1000 + 0j)
    for name, place in (points or {}).items():
        places[POINTS.index(name)] = place
    return Figure(places, (head, *limbs), False, prop)


def visibility(name, *figures):
    return label_figures(FigureScene((100, 100), figures), [name])[0].keypoints[0, 2]


def test_what_hides_a_joint():
    arm = Limb('left_elbow-left_wrist', 50 + 50j, 50 + 20j, (3.0, 2.0), 'skin')
    over, under = (Limb('trunk', 50 + 40j, 50 + 60j, (5.0, 5.0), 'shirt') for _ in range(2))
    elbow = {'left_elbow': 50 + 50j}
    assert visibility('left_elbow', bare(elbow, [under, arm])) == VISIBLE
    assert visibility('left_elbow', bare(elbow, [arm, over])) == HIDDEN
    assert visibility('left_elbow', bare(elbow, [arm]), bare(limbs=[over])) == HIDDEN
    for round_, shift, expected in ((True, 0, HIDDEN), (False, 3 + 3j, HIDDEN), (True, 3 + 3j, VISIBLE)):
        prop = Prop(50 + 50j + shift, (4.0, 4.0), 0.0, round_)
        assert visibility('left_elbow', bare(elbow, [arm], prop)) == expected
    assert visibility('left_elbow', bare({'left_elbow': 150 + 50j}, [arm])) == 0


@pytest.mark.parametrize('place', [20 + 10j, 7 + 33j, 59 + 39j, 0j])
def test_a_limb_is_painted_around_the_place_of_its_label(place):
    """x counts columns, y rows, and whole numbers are the middles of pixels."""
    dot = bare({'left_wrist': place}, [Limb('left_wrist-left_hand', place, place, (3.0, 3.0), 'eye')])
    size = (40, 60)
    with_dot, without = (
        paint(FigureScene(size, figures), 'train', np.random.default_rng(0)) for figures in ((dot,), ())
    )
    y, x = np.nonzero((with_dot != without).any(2))
    (label,) = label_figures(FigureScene(size, (dot,)), ['left_wrist'])
    assert tuple(label.keypoints[0]) == (place.real, place.imag, VISIBLE)
    inside = place in (20 + 10j, 7 + 33j)
    assert len(x) > (20 if inside else 5)
    assert np.hypot(x - place.real, y - place.imag).max() <= 3.5
    if inside:
        assert abs(x.mean() - place.real) < 0.2 and abs(y.mean() - place.imag) < 0.2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (((96, 0), 0, 'train', 0), r'\(96, 0\)'),
        ((SIZE, 0, 'test', 0), "'test'"),
        ((SIZE, -1, 'train', 0), 'seed .*-1'),
        ((SIZE, 0, 'train', -1), 'index .*-1'),
    ],
)
def test_impossible_scenes_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_figure_scene(*arguments)
    with pytest.raises(ConfigError, match=message):
        draw_figure_scene(*arguments)


def test_unknown_joints_are_refused():
    with pytest.raises(ConfigError, match="left_knee.*'tail'"):
        label_figures(make_figure_scene(SIZE, 0, 'train', 0), ['head', 'tail'])
