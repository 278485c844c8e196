"""A method on the command line: every way to write it, settings over the config's, and nothing is ever run."""

import warnings

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mmseg_tr.apis.config import load_config, parse_reduction, use_reduction
from mmseg_tr.errors import ConfigError

TEXTS = {
    "dict(type='ALGM', layers=(1, 5), threshold=0.9)": dict(type='ALGM', layers=(1, 5), threshold=0.9),
    "{'type': 'ToMe', 'r': 8}": dict(type='ToMe', r=8),
    'type=ToMe,r=8': dict(type='ToMe', r=8),
    'dict(type=ToMe, r=8)': dict(type='ToMe', r=8),
    'threshold=0.5': dict(threshold=0.5),
    'None': None, 'none': None, 'plain': None,
    'tome': 'ToMe', 'e-vit': 'EViT', 'segformer++': 'SegFormer++',
    'type=ToMe r=16': dict(type='ToMe', r=16), 'layers=1,3': dict(layers=[1, 3]),
    'type=CTS,policy_checkpoint=work_dirs/a b/iter_1.pth': dict(
        type='CTS', policy_checkpoint='work_dirs/a b/iter_1.pth'
    ),
}  # fmt: skip


@pytest.mark.parametrize('text', TEXTS)
def test_every_way_to_write_a_method(text):
    assert parse_reduction(text) == TEXTS[text]


@pytest.mark.parametrize(
    'text', ['Tom', '8', 'dict(8)', 'dict(**x)', 'r=open("x"', '__import__("os").getcwd()', 'r=', 'bsm_best', '[1, 2]']
)
def test_other_text_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match='reduction( type)? must be') as caught:
        parse_reduction(text)
    assert caught.value.parameters == ('reduction',)
    assert text != 'Tom' or 'did you mean ToMe' in str(caught.value)


def test_settings_go_over_those_of_the_config():
    def over(own, text):
        config = Config(dict(model=dict(backbone=dict(reduction=own))))
        use_reduction(config, text)
        return config.model.backbone.reduction

    own = dict(type='ALGM', layers=(1, 5), threshold=0.88)
    assert over(own, 'threshold=0.5') == over(own, 'type=ALGM,threshold=0.5') == own | dict(threshold=0.5)
    assert over(own, 'type=ToMe,r=8') == dict(type='ToMe', r=8)
    assert over(own, 'None') is None
    assert over(own, 'type=algm,threshold=0.5') == own | dict(type='algm', threshold=0.5)
    assert over(own, 'evit') == over(None, 'evit') == 'EViT'
    assert over(own, dict(threshold=0.1)) == own | dict(threshold=0.1)
    assert over('tome', 'r=4') == dict(type='tome', r=4)
    with pytest.raises(ConfigError, match='names no type'):
        over(None, 'r=8')
    with pytest.raises(ConfigError, match='has none'):
        use_reduction(Config(dict(model=dict(type='x'))), 'r=8')


def test_a_mit_takes_presets_and_stages():
    def over(text):
        config = Config(
            dict(model=dict(backbone=dict(type='mmseg_tr.MiT', reduction=dict(type='SegFormerPP', preset='bsm_fast'))))
        )
        use_reduction(config, text)
        return config.model.backbone.reduction

    def preset(name):
        return dict(type='SegFormerPP', preset=name)

    assert over('bsm_hq') == over('merging=bsm_hq') == over('preset=bsm_hq') == preset('bsm_hq')
    assert (over('n2d-2x2'), over('2x2'), over('None')) == (preset('n2d-2x2'), preset('2x2'), None)
    stages = [dict(q_mode='n2d', q_s=(2, 2)), {}]
    wanted = dict(type='SegFormerPP', stages=stages)
    assert (
        over('[dict(q_mode=n2d, q_s=(2, 2)), None]')
        == over("[{'q_mode': 'n2d', 'q_s': (2, 2)}, {}]")
        == over(f'stages={stages}')
        == wanted
    )


def test_a_method_among_the_options_replaces_another_one_whole(tmp_path):
    path = tmp_path / 'algm.py'
    algm = "reduction=dict(type='ALGM', layers=(1, 5), threshold=0.9)"
    path.write_text(f"model = dict(type='EncoderDecoder', backbone=dict(type='mmseg_tr.ViT', {algm}))\n")

    def over(value):
        return load_config(str(path), {'model.backbone.reduction': value}).model.backbone.reduction

    assert over(dict(type='ToMe', r=8)) == dict(type='ToMe', r=8)
    assert over(dict(type='ALGM', threshold=0.5)) == dict(type='ALGM', layers=(1, 5), threshold=0.5)
    assert over(dict(threshold=0.5)) == dict(type='ALGM', layers=(1, 5), threshold=0.5)
    assert over('tome') == 'tome' and over(None) is None


BACKBONE = "model = dict(type='EncoderDecoder', backbone=dict(type='mmseg_tr.MiT', {}))\n"
NEW, OLD = "reduction=dict(type='SegFormerPP', preset='bsm_hq')", "merging=[dict(q_mode='n2d', q_s=(2, 2)), {}]"


@pytest.mark.parametrize(
    ('written', 'options', 'wanted'),
    [
        ("merging='bsm_fast'", {}, dict(preset='bsm_fast')),
        (NEW, {'model.backbone.merging': 'n2d_2x2'}, dict(preset='n2d_2x2')),
        (OLD, {'model.backbone.merging.0.q_s': (4, 4)}, dict(stages=[dict(q_mode='n2d', q_s=(4, 4)), {}])),
        (OLD, {'model.backbone.reduction': dict(preset='bsm_hq', stages=None)}, dict(preset='bsm_hq', stages=None)),
    ],
)
def test_the_old_spelling_is_read_from_files_and_options_with_one_warning(tmp_path, written, options, wanted):
    path = tmp_path / 'old.py'
    path.write_text(BACKBONE.format(written))
    with pytest.warns(DeprecationWarning, match='reduction=') as warned:
        backbone = load_config(str(path), options).model.backbone
    assert len(warned) == 1
    assert backbone.reduction == dict(type='SegFormerPP', **wanted) and 'merging' not in backbone


def test_a_config_without_the_old_spelling_does_not_warn(tmp_path):
    path = tmp_path / 'new.py'
    path.write_text(BACKBONE.format(NEW))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert load_config(str(path)).model.backbone.reduction == dict(type='SegFormerPP', preset='bsm_hq')
