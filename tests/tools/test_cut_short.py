"""A part of the sweep of tests/cut_short.py: what has its final name is whole after a full disk, a kill and Ctrl-C."""

import pytest

pytest.importorskip('mmseg')

from tests import cut_short
from tests.hostile import quiet, room

TOOLS = ('convert_checkpoint to safetensors', 'test', 'infer to avi')


def test_tools_that_are_cut_short_leave_whole_files_and_lose_none(tmp_path):
    with room(tmp_path) as here:
        cut_short.add_video(here)
        with quiet():
            cut_short.Case(here, 'infer to avi', False).run(tmp_path / 'warm')
        found = list(cut_short.sweep(here, TOOLS, count=2, every=3))
    assert {f'{tool}, {fault.kind} {fault.at:g}': wrong for tool, fault, wrong in found if wrong} == {}
    assert {tool.partition(' over')[0] for tool, _, _ in found} == set(TOOLS)
    assert {fault.kind for _, fault, _ in found} >= {'size', 'kill', 'interrupt'}
