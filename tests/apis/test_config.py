"""A method on the command line: every way to write it, settings over the config's, and nothing is ever run."""

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mmseg_tr.apis.config import parse_reduction, use_reduction
from mmseg_tr.errors import ConfigError

TEXTS = {
    "dict(type='ALGM', layers=(1, 5), threshold=0.9)": dict(type='ALGM', layers=(1, 5), threshold=0.9),
    "{'type': 'ToMe', 'r': 8}": dict(type='ToMe', r=8),
    'type=ToMe,r=8': dict(type='ToMe', r=8),
    'dict(type=ToMe, r=8)': dict(type='ToMe', r=8),
    'threshold=0.5': dict(threshold=0.5),
    'None': None,
}


@pytest.mark.parametrize('text', TEXTS)
def test_every_way_to_write_a_method(text):
    assert parse_reduction(text) == TEXTS[text]


@pytest.mark.parametrize('text', ['ToMe', '8', 'dict(8)', 'dict(**x)', 'r=open("x"', '__import__("os").getcwd()', 'r='])
def test_other_text_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match='reduction must be'):
        parse_reduction(text)


def test_settings_go_over_those_of_the_config():
    def over(own, text):
        config = Config(dict(model=dict(backbone=dict(reduction=own))))
        use_reduction(config, text)
        return config.model.backbone.reduction

    own = dict(type='ALGM', layers=(1, 5), threshold=0.88)
    assert over(own, 'threshold=0.5') == over(own, 'type=ALGM,threshold=0.5') == own | dict(threshold=0.5)
    assert over(own, 'type=ToMe,r=8') == dict(type='ToMe', r=8)
    assert over(own, 'None') is None
    with pytest.raises(ConfigError, match='names no type'):
        over(None, 'r=8')
    with pytest.raises(ConfigError, match='has none'):
        use_reduction(Config(dict(model=dict(type='x'))), 'r=8')


def test_a_mit_takes_presets_and_stages():
    def over(text):
        config = Config(dict(model=dict(backbone=dict(type='mmseg_tr.MiT', merging='bsm_fast'))))
        use_reduction(config, text)
        return config.model.backbone.merging

    assert over('bsm_hq') == over('merging=bsm_hq') == 'bsm_hq'
    assert (over('n2d-2x2'), over('2x2'), over('None')) == ('n2d-2x2', '2x2', None)
    stages = [dict(q_mode='n2d', q_s=(2, 2)), {}]
    assert over('[dict(q_mode=n2d, q_s=(2, 2)), None]') == over("[{'q_mode': 'n2d', 'q_s': (2, 2)}, {}]") == stages
    for text in ('type=ToMe,r=8', '[1, 2]', 'open("x")', '[open("x")]'):
        with pytest.raises(ConfigError, match='reduction of a MiT must be a preset'):
            over(text)
