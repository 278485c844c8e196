"""tools/infer.py on videos: every frame, both containers, label frames, and videos that break off."""

import re

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.infer import Predictor, infer
from mmseg_tr.visualization.video import VideoWriter, open_video
from tests.tiny import write_config, write_dataset
from tests.tools.command import call, mistake

FRAMES, SIZE = 12, (40, 56)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    config = write_config(folder, write_dataset(folder / 'data'))
    model = build_model(load_config(config), None)
    torch.manual_seed(0)
    state = {key: value + 0.2 * torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'plain.pth')
    return config, folder / 'plain.pth'


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """A bright square that moves, as AVI and as MP4."""
    folder = tmp_path_factory.mktemp('videos')
    for name in ('moving.avi', 'other.mp4'):
        with VideoWriter(folder / name, fps=10) as writer:
            for index in range(FRAMES):
                frame = np.full((*SIZE, 3), 60, np.uint8)
                frame[8:32, 2 * index : 2 * index + 24] = (200, 120, 220)
                writer.add(frame)
    return folder


def run(tiny, *arguments):
    return call('infer', *tiny, *arguments, '--device', 'cpu')


def test_every_frame_is_segmented_and_the_video_keeps_its_rate_and_size(tiny, videos, tmp_path, capsys):
    assert run(tiny, videos, '-o', tmp_path, '--label-frames', '--batch-size', 5) == 0
    assert capsys.readouterr().out.startswith(f'2 files done, 0 skipped or incomplete: {tmp_path}\n')
    assert sorted(path.name for path in (tmp_path / 'blend').iterdir()) == ['moving.mp4', 'other.mp4']
    video = open_video(tmp_path / 'blend' / 'moving.mp4')
    drawn = list(video.frames())
    assert (video.fps, len(drawn), drawn[0].shape) == (10, FRAMES, (*SIZE, 3))
    given = list(open_video(videos / 'moving.avi').frames())
    predictor = Predictor(*tiny, device='cpu')
    palette = np.array([[0, 0, 0], [9, 9, 9], [255, 255, 0]])
    for index in (0, 7, FRAMES - 1):
        label = np.array(Image.open(tmp_path / 'label' / 'moving' / f'{index:06d}.png'))
        assert np.array_equal(label, predictor.predict(given[index]))
        expected = (given[index] / 2.0 + palette[label] / 2.0).mean()
        assert abs(drawn[index].mean() - expected) < 4  # the codec loses a little
    assert len(list((tmp_path / 'label' / 'other').iterdir())) == FRAMES


def test_avi_is_written_on_request_and_label_frames_only_then(tiny, videos, tmp_path):
    assert run(tiny, videos / 'other.mp4', '-o', tmp_path, '--video-format', 'avi') == 0
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob('*'))] == ['blend', 'blend/other.avi']
    assert len(list(open_video(tmp_path / 'blend' / 'other.avi').frames())) == FRAMES


def test_videos_that_break_off_or_are_none_are_reported(tiny, videos, tmp_path, capsys):
    broken = tmp_path / 'in'
    broken.mkdir()
    whole = (videos / 'moving.avi').read_bytes()
    (broken / 'cut.avi').write_bytes(whole[: len(whole) * 6 // 10])
    (broken / 'empty.mp4').write_bytes(b'')
    (broken / 'headless.mp4').write_bytes((videos / 'other.mp4').read_bytes()[:400])
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(broken / 'fine.png')
    assert run(tiny, broken, '-o', tmp_path / 'out') == 1
    said = capsys.readouterr()
    assert said.out.startswith(f'2 files done, 3 skipped or incomplete: {tmp_path / "out"}\n')
    kept = len(list(open_video(tmp_path / 'out' / 'blend' / 'cut.mp4').frames()))
    assert 0 < kept < FRAMES
    assert (
        f'incomplete: the video {broken / "cut.avi"} has {FRAMES} frames by its header, {kept} could be read'
        in said.err
    )
    skipped = re.findall(r'skipped: the video (\S+) cannot be read: it is skipped.', said.err)
    assert skipped == [str(broken / 'empty.mp4'), str(broken / 'headless.mp4')]
    assert not [path for path in (tmp_path / 'out').rglob('*') if 'unfinished' in path.name]


def test_progress_counts_frames_and_no_more_than_the_next_batch_is_read_ahead(tiny, videos, tmp_path, monkeypatch):
    read, told, held = [], [], []
    frames = type(open_video(videos / 'other.mp4')).frames

    def counted(self):
        for frame in frames(self):
            read.append(1)
            yield frame

    monkeypatch.setattr('mmseg_tr.visualization.video.Video.frames', counted)

    def progress(done, total):
        told.append((done, total))
        held.append(len(read) - done)

    written, failures = infer(
        str(tiny[0]), str(tiny[1]), [videos / 'other.mp4'], tmp_path, batch_size=5, device='cpu', progress=progress
    )
    assert (written, failures) == (1, [])
    assert told == [(5, FRAMES), (10, FRAMES), (FRAMES, FRAMES)]
    assert max(held) <= 5 + 1  # those of the next batch, and one more


def test_a_run_that_is_killed_leaves_no_part_of_a_video(tiny, videos, tmp_path):
    def killed(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(str(tiny[0]), str(tiny[1]), [videos / 'other.mp4'], tmp_path, device='cpu', progress=killed)
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_nothing_is_overwritten_without_force(tiny, videos, tmp_path, capsys):
    arguments = (*tiny, videos / 'other.mp4', '-o', tmp_path, '--label-frames')
    (tmp_path / 'blend').mkdir()
    (tmp_path / 'blend' / 'other.mp4').write_bytes(b'mine')
    assert 'other.mp4' in mistake(capsys, 'infer', *arguments)
    (tmp_path / 'label' / 'other').mkdir(parents=True)
    (tmp_path / 'blend' / 'other.mp4').unlink()
    assert f'{tmp_path / "label" / "other"}.' in mistake(capsys, 'infer', *arguments)
    assert call('infer', *arguments, '--force', '--device', 'cpu') == 0
    said = mistake(capsys, 'infer', *tiny, tmp_path / 'blend' / 'other.mp4', '-o', tmp_path, '--force')
    assert 'would replace the picture that it is made from' in said


def test_mistakes_are_one_sentence(tiny, videos, tmp_path, capsys):
    out = ('-o', tmp_path / 'out')
    said = mistake(capsys, 'infer', *tiny, videos, *out, '--video-format', 'gif')
    assert said == '--video-format must be mp4 or avi, got gif.'
    assert '--boxes belongs to configs of pose' in mistake(capsys, 'infer', *tiny, videos, *out, '--boxes', 'b.json')
    copy = tmp_path / 'moving.mp4'
    copy.write_bytes((videos / 'other.mp4').read_bytes())
    said = mistake(capsys, 'infer', *tiny, videos / 'moving.avi', copy, *out)
    assert 'would both be written to moving.mp4' in said
    assert not (tmp_path / 'out').exists()


def test_odd_sizes_grow_by_a_pixel_instead_of_losing_one(tmp_path):
    frame = cv2.resize(np.arange(61 * 97 * 3, dtype=np.uint8).reshape(61, 97, 3), (97, 61))
    for ending in ('.mp4', '.avi'):
        with VideoWriter(tmp_path / f'odd{ending}', fps=5) as writer:
            writer.add(frame)
        assert next(open_video(tmp_path / f'odd{ending}').frames()).shape == (62, 98, 3)
