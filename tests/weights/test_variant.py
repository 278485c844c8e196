import pytest

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.variant import Network, algm_reduction, normalization, read_variant
from tests.releases import net_kwargs, variant


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / 'variant.yml'
        path.write_text(text)
        return path

    return write


def test_tuples_are_read(written):
    path = written('net_kwargs:\n  image_size: !!python/tuple\n  - 512\n  - 640\n')
    assert read_variant(path) == {'net_kwargs': {'image_size': (512, 640)}}


@pytest.mark.parametrize(
    'text',
    [
        'a: !!python/object/apply:os.mkdir [{trace}]',
        'a: !!python/object/new:os.mkdir [{trace}]',
        'a: !!python/name:os.mkdir',
        'a: !!python/module:os',
        'a: !!python/tuple [!!python/object/apply:os.mkdir [{trace}]]',
    ],
)
def test_other_python_tags_are_refused_and_not_run(written, tmp_path, text):
    trace = tmp_path / 'trace'
    with pytest.raises(CheckpointError, match='python/tuple') as caught:
        read_variant(written(text.format(trace=trace)))
    assert '\n' not in str(caught.value)
    assert not trace.exists()


def test_other_loaders_are_left_as_they_are(written):
    import yaml

    path = written('!!python/tuple [1, 2]')
    with pytest.raises(CheckpointError, match='no settings'):
        read_variant(path)
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.safe_load(path.read_text())


def test_missing_file_says_where_to_put_it(tmp_path):
    with pytest.raises(CheckpointError, match='variant=FILE'):
        read_variant(tmp_path / 'variant.yml')


@pytest.mark.parametrize('text', ['a: [1, 2', '\tx: 1', ': : :\n- b', '{a: 1'])
def test_broken_yaml_is_told_in_one_sentence(written, text):
    with pytest.raises(CheckpointError, match='not valid YAML') as caught:
        read_variant(written(text))
    assert '\n' not in str(caught.value)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / 'variant.yml'
    path.write_bytes(b'\x80\x02\xff\xfe')
    with pytest.raises(CheckpointError, match='not valid YAML'):
        read_variant(path)


def test_dimensions_come_from_the_numbers():
    net = Network.from_net_kwargs(net_kwargs(image_size=(32, 48)))
    assert net.arch == {'embed_dim': 64, 'depth': 2, 'num_heads': 2, 'patch_size': 8, 'distilled': False}
    assert (net.image_size, net.decoder, net.decoder_depth) == ((32, 48), 'mask_transformer', 1)


def test_single_image_size_means_a_square():
    assert Network.from_net_kwargs(net_kwargs(image_size=48)).image_size == (48, 48)


def test_distilled_may_be_absent():
    settings = net_kwargs()
    del settings['distilled']
    assert Network.from_net_kwargs(settings).distilled is False


@pytest.mark.parametrize('key', ['d_model', 'n_layers', 'n_heads', 'patch_size', 'n_cls', 'image_size', 'decoder'])
def test_missing_entry_is_named(key):
    settings = net_kwargs()
    del settings[key]
    with pytest.raises(CheckpointError, match=key):
        Network.from_net_kwargs(settings)


@pytest.mark.parametrize('value', [0, -1, 1.5, '64', True, None, [64]])
def test_unusable_dimension_is_named_with_its_value(value):
    with pytest.raises(CheckpointError, match='d_model'):
        Network.from_net_kwargs(net_kwargs(d_model=value))


def test_unknown_decoder_is_named():
    with pytest.raises(CheckpointError, match='deeplab_dec'):
        Network.from_net_kwargs(net_kwargs(decoder='deeplab_dec'))


def test_contradicting_class_counts_are_named():
    settings = net_kwargs()
    settings['decoder']['n_cls'] = 7
    with pytest.raises(CheckpointError, match='contradicts'):
        Network.from_net_kwargs(settings)


def test_normalization_is_taken_from_the_dataset_where_the_network_says_none():
    settings = variant(normalization='deit')
    del settings['net_kwargs']['normalization']
    assert normalization(settings) == 'deit'


def test_unknown_normalization_is_named():
    with pytest.raises(CheckpointError, match='imagenet'):
        normalization(variant(net_kwargs(normalization='imagenet')))


def test_algm_settings_are_found():
    settings = variant(patch_type='algm', selected_layers=(1, 2), merging_window_size=(2, 2), threshold=0.88)
    assert algm_reduction(settings) == {'type': 'ALGM', 'layers': (1, 2), 'window': (2, 2), 'threshold': 0.88}


@pytest.mark.parametrize('settings', [{}, {'patch_type': 'pure', 'selected_layers': (1,)}])
def test_plain_releases_have_no_reduction(settings):
    assert algm_reduction(variant(**settings)) is None


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'patch_type': 'other'}, 'other'),
        ({'selected_layers': ()}, 'selected_layers'),
        ({'selected_layers': (0,)}, 'selected_layers'),
        ({'merging_window_size': (2,)}, 'merging_window_size'),
        ({'threshold': 'high'}, 'threshold'),
    ],
)
def test_unusable_algm_setting_is_named(change, word):
    settings = {'patch_type': 'algm', 'selected_layers': (1,), 'merging_window_size': (2, 2), 'threshold': 0.9}
    with pytest.raises(CheckpointError, match=word):
        algm_reduction(variant(**{**settings, **change}))


@pytest.mark.parametrize(
    'value',
    [
        '!!int abc',
        '!!float x',
        '!!bool maybe',
        '!!timestamp soon',
        '2001-13-45',
        '!!binary "\\u2603"',
        '{[1]: 2}',
        '!!set [1]',
        '!!omap 3',
        '[' * 5000,
        '[' * 5000 + ']' * 5000,
        '{a: ' * 3000 + '1' + '}' * 3000,
        '9' * 5000,
    ],
)
def test_values_that_are_none_are_one_sentence(written, value):
    path = written(f'net_kwargs: {value}\n')
    with pytest.raises(CheckpointError) as caught:
        net = read_variant(path)['net_kwargs']
        Network.from_net_kwargs({'decoder': {'name': 'linear'}, 'n_cls': net})
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 600


def test_values_that_repeat_one_another_are_not_written_out(written):
    lines = ['a0: &a0 [1, 1]', *(f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 60)), 'n_cls: *a59']
    with pytest.raises(CheckpointError) as caught:
        Network.from_net_kwargs({**read_variant(written('\n'.join(lines))), 'decoder': {'name': 'linear'}})
    assert 'n_cls' in str(caught.value) and len(str(caught.value)) < 1000
