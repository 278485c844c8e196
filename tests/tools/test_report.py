"""tools/report.py: the page, clicked through in headless Chromium, and one sentence for every mistake."""

import json
import re

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('skimage')

from PIL import Image

from mmseg_tr.datasets.scenes import make_scene
from mmseg_tr.paths import config_path
from tests.tools.as_written import clone, commands
from tests.tools.chromium import chromium
from tests.tools.command import call, mistake
from tests.tools.weights import untrained

NAME = 'vit-tiny-p8_photo-mosaic-128x128.py'
CONFIGS = tuple(str(config_path(f'{name}/{name}_{NAME}')) for name in ('segmenter', 'algm', 'tome', 'act'))
PLAIN, ALGM, TOME, ACT = CONFIGS
SMALL = ('--device', 'cpu', '--cfg-options', 'test_dataloader.dataset.length=10')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return untrained(PLAIN, tmp_path_factory.mktemp('weights') / 'plain.pth')


@pytest.fixture(scope='module')
def comparison(tmp_path_factory):
    """What tools/compare.py writes, shortened."""
    common = dict(tokens_per_layer=[257, 257], settings={}, agreement=100.0, method='plain')
    rows = [
        common | dict(name='segmenter', miou=66.6, gmacs=0.426, fps=133.0, throughput=179.0),
        common | dict(name='algm', method='ALGM', miou=67.0, gmacs=0.259, fps=148.0, throughput=236.0, agreement=95.0),
    ]
    rows[1]['settings'] = dict(type='ALGM', layers=[1, 3])
    file = tmp_path_factory.mktemp('compared') / 'compare.json'
    file.write_text(json.dumps(dict(about=dict(batch_size=8), rows=rows)))
    return file


@pytest.fixture(scope='module')
def page(checkpoint, comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp('report') / 'report.html'
    arguments = ('--checkpoint', checkpoint, '--out', out, '--compare', comparison, '--scenes', 2, *SMALL)
    assert call('report', *CONFIGS, *arguments) == 0
    return out


@pytest.fixture(scope='module')
def browser(page, tmp_path_factory):
    with chromium(tmp_path_factory.mktemp('profile')) as window:
        yield window


@pytest.fixture
def opened(browser, page):
    """The page, freshly loaded on a desktop; every test ends without a message in the console."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    corner = ActionBuilder(browser)
    corner.pointer_action.move_to_location(1, 1)
    corner.perform()
    browser.get(page.as_uri())
    wait(browser, lambda: browser.execute_script('return document.body.dataset.ready'))
    yield browser
    assert browser.get_log('browser') == []


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def find(browser, css):
    return browser.find_element('css selector', css)


def drawn(browser, view):
    """What a canvas shows, as a short number."""
    script = """
        const view = document.getElementById(arguments[0]), copy = document.createElement('canvas');
        [copy.width, copy.height] = [view.width / 2, view.height / 2];
        const context = copy.getContext('2d', {willReadFrequently: true});
        context.drawImage(view, 0, 0, copy.width, copy.height);
        const {data} = context.getImageData(0, 0, copy.width, copy.height);
        return data.reduce((sum, value, place) => (sum * 31 + value * (place % 251)) % 1000003, 7);
    """
    return browser.execute_script(script, view)


def change(browser, act, view='groups'):
    """Do something, and wait until a canvas shows something else."""
    before = drawn(browser, view)
    act()
    wait(browser, lambda: drawn(browser, view) != before)


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def keys():
    from selenium.webdriver import Keys

    return Keys


def test_the_page_is_one_file_of_a_sane_size(page):
    text = page.read_text()
    assert 'http' not in text and text.count('src="') == text.count('src="${')
    assert page.stat().st_size < 700_000
    assert text.count('data:image/png;base64,') == 2


def test_every_control_changes_what_is_drawn(opened):
    change(opened, lambda: find(opened, 'input[name=picture][value="1"]').click())
    change(opened, lambda: find(opened, 'input[name=picture][value="0"]').click(), 'prediction')
    change(opened, lambda: find(opened, 'input[name=method][value="0"]').click())
    assert find(opened, '#change-caption').text == 'This is the plain model: nothing changes.'
    change(opened, lambda: find(opened, 'input[name=method][value="1"]').click(), 'change')
    assert 'differ from the plain' in find(opened, '#change-caption').text
    assert 'layers=(1, 3)' in find(opened, '#setting').text
    for way in ('mean', 'picture'):
        change(opened, lambda way=way: find(opened, f'#paint option[value={way}]').click())
    change(opened, lambda: find(opened, '#against option[value=label]').click(), 'change')
    assert 'differ from the label' in find(opened, '#change-caption').text


def test_parts_of_a_layer_can_be_chosen(opened):
    assert not find(opened, '#part').is_displayed()
    change(opened, lambda: find(opened, 'input[name=method][value="2"]').click())
    assert [option.text for option in opened.find_elements('css selector', '#part option')] == ['attention', 'mlp']
    change(opened, lambda: find(opened, 'input[name=method][value="3"]').click())
    wait(opened, lambda: len(opened.find_elements('css selector', '#part option')) == 4)
    change(opened, lambda: find(opened, '#part option[value="1"]').click())
    assert find(opened, '#part').get_attribute('value') == '1'


def test_a_layer_is_chosen_by_keyboard_or_in_the_chart(opened):
    slider = find(opened, '#layer')
    assert slider.get_attribute('value') == '6'
    slider.send_keys(keys().HOME)
    wait(opened, lambda: find(opened, '#layer-name').text.startswith('layer 1: '))
    change(opened, lambda: slider.send_keys(keys().ARROW_RIGHT, keys().ARROW_RIGHT))
    assert find(opened, '#layer-name').text.startswith('layer 3: ')
    opened.execute_script(
        'document.querySelector("[data-layer=\\"2\\"]").dispatchEvent(new Event("click", {bubbles: true}))'
    )
    wait(opened, lambda: find(opened, '#layer-name').text.startswith('layer 2: '))
    assert slider.get_attribute('value') == '2'


def test_the_keyboard_alone_reaches_every_control(opened):
    """Tab from the top: picture, method, layer, selects, the picture's patches, the plot's points."""
    seen = []
    opened.execute_script('document.activeElement.blur()')
    for _ in range(16):
        press(opened, keys().TAB)
        seen.append(
            opened.execute_script(
                'const a = document.activeElement; return a.id || a.name || a.dataset.row || a.tagName'
            )
        )
    reached = [
        name for name in seen if name in ('picture', 'method', 'layer', 'paint', 'against', 'groups', 'axis', '0', '1')
    ]
    assert reached[:9] == ['picture', 'method', 'layer', 'paint', 'against', 'groups', 'axis', '0', '1']
    outline = opened.execute_script(
        'document.getElementById("layer").focus(); return getComputedStyle(document.activeElement).outlineStyle'
    )
    assert outline == 'solid'


def test_pictures_and_methods_follow_the_arrow_keys(opened):
    opened.execute_script('document.querySelector("input[name=picture]:checked").focus()')
    change(opened, lambda: press(opened, keys().ARROW_RIGHT))
    assert find(opened, 'input[name=picture]:checked').get_attribute('value') == '1'
    opened.execute_script('document.querySelector("input[name=method]:checked").focus()')
    change(opened, lambda: press(opened, keys().ARROW_RIGHT))
    assert find(opened, 'input[name=method]:checked').get_attribute('aria-label') == 'ToMe'


def test_pointing_at_a_patch_lights_up_its_group_in_every_view(opened):
    from selenium.webdriver import ActionChains

    before = {view: drawn(opened, view) for view in ('groups', 'prediction', 'change')}
    change(opened, lambda: ActionChains(opened).move_to_element(find(opened, '#prediction')).perform())
    assert all(drawn(opened, view) != number for view, number in before.items())
    said = find(opened, '#readout').text
    assert re.match(r'Row \d+, column [89]: .+ At its centre predicted: .+, plain model: .+, label: ', said), said
    change(opened, lambda: ActionChains(opened).move_to_element(find(opened, 'h1')).perform())
    assert {view: drawn(opened, view) for view in before} == before


def test_arrow_keys_walk_over_the_patches(opened):
    opened.execute_script('document.getElementById("groups").focus()')
    change(opened, lambda: press(opened, keys().ARROW_RIGHT))
    place = find(opened, '#readout').text.partition(':')[0]
    press(opened, keys().ARROW_DOWN, keys().ARROW_RIGHT, keys().ARROW_RIGHT)
    row, column = (int(part.split()[-1]) for part in place.split(','))
    assert find(opened, '#readout').text.startswith(f'Row {row + 1}, column {column + 2}: ')
    change(opened, lambda: press(opened, keys().ESCAPE))
    assert find(opened, '#readout').text.startswith('Point at a patch')


def test_what_is_told_of_a_group_is_what_the_page_holds(opened):
    """The number of patches in the read-out is counted again from the array behind it."""
    opened.execute_script('document.getElementById("groups").focus()')
    press(opened, keys().ARROW_RIGHT)
    sizes = opened.execute_script(
        'const {groups} = shown, own = groups[8 * 16 + 8]; return groups.filter(other => other === own).length'
    )
    said = find(opened, '#readout').text
    assert ('a token of its own' in said) if sizes == 1 else (f' {sizes - 1} other' in said)


def test_points_of_the_plot_explain_themselves_on_focus(opened):
    first, second = opened.find_elements('css selector', '[data-row]')
    opened.execute_script('arguments[0].focus()', second)
    said = find(opened, '#point').text
    assert said.startswith('ALGM') and '+0.4 points' in said and '1.32 times the plain model' in said
    opened.execute_script('arguments[0].focus()', first)
    assert find(opened, '#point').text.startswith('plain') and 'times the plain' not in find(opened, '#point').text
    change(opened, lambda: press(opened, keys().TAB) or find(opened, 'input[name=method][value="0"]').click())
    find(opened, '[data-row="1"]').click()
    change(opened, lambda: find(opened, '#point button').click())
    assert find(opened, 'input[name=method]:checked').get_attribute('value') == '1'
    before = find(opened, '#plot').get_attribute('innerHTML')
    find(opened, '#axis option[value=gmacs]').click()
    wait(opened, lambda: find(opened, '#plot').get_attribute('innerHTML') != before)
    assert 'GMACs' in find(opened, '#plot').text


@pytest.mark.parametrize('width', [320, 390])
def test_a_phone_shows_everything_without_scrolling_sideways(opened, width):
    metrics = dict(width=width, height=800, deviceScaleFactor=2, mobile=True)
    opened.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    wait(opened, lambda: opened.execute_script('return document.body.clientWidth') <= width)
    for element in opened.find_elements('css selector', 'details'):
        opened.execute_script('arguments[0].open = true', element)
    for name in ('scrollWidth', 'clientWidth'):
        assert opened.execute_script(f'return document.documentElement.{name}') == width
    wait(opened, lambda: find(opened, '#plot svg').size['width'] <= width)
    assert find(opened, '#groups').size['width'] > width - 70


def test_light_and_dark_follow_the_system(opened):
    grounds = []
    for scheme in ('light', 'dark'):
        feature = dict(features=[dict(name='prefers-color-scheme', value=scheme)])
        opened.execute_cdp_cmd('Emulation.setEmulatedMedia', feature)
        script = 'const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]'
        grounds.append([sum(map(int, text[4:-1].split(','))) for text in opened.execute_script(script)])
    opened.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[]))
    (light, dark_ink), (dark, light_ink) = grounds
    assert light > 700 > 150 > dark_ink and dark < 100 < 600 < light_ink


def test_nothing_is_fetched(opened):
    fetched = opened.execute_script('return performance.getEntriesByType("resource").map(entry => entry.name)')
    assert [name for name in fetched if not name.startswith(('data:', 'blob:'))] == []


def test_own_pictures_have_no_label_and_names_cannot_break_the_page(checkpoint, browser, tmp_path):
    picture = tmp_path / '<b>&"a".png'
    Image.fromarray(make_scene((96, 150), 0, 'val', 0)[0]).save(picture)
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    out = tmp_path / 'page.html'
    images = ('--images', picture, tmp_path / 'bad.png')
    assert call('report', ALGM, '--checkpoint', checkpoint, '--out', out, *images, '--device', 'cpu') == 1
    browser.get_log('browser')
    browser.get(out.as_uri())
    wait(browser, lambda: browser.execute_script('return document.body.dataset.ready'))
    assert find(browser, 'input[name=picture]').get_attribute('aria-label') == picture.name
    assert not find(browser, '#against').is_displayed() and not find(browser, '#quality').is_displayed()
    assert browser.get_log('browser') == []


def test_mistakes_are_one_sentence(checkpoint, page, comparison, tmp_path, capsys):
    empty, broken, out = tmp_path / 'empty', tmp_path / 'broken.json', tmp_path / 'page.html'
    empty.mkdir()
    broken.write_text('{"rows": [1]}')
    given = ('--checkpoint', checkpoint)
    for arguments, part in (
        (('gone.py', *given), 'config file gone.py does not exist'),
        ((ALGM, '--checkpoint', 'gone.pth'), 'there is no checkpoint file gone.pth'),
        ((ALGM, *given, '--images', tmp_path / 'gone.png'), 'there is no file or folder'),
        ((ALGM, *given, '--images', empty), 'holds no image'),
        ((ALGM, *given, '--scenes', 0), '--scenes must be 1 or more, got 0'),
        (
            (ALGM, *given, '--compare', 'gone.json'),
            "--compare must be a compare.json of `mmseg-tr compare`, got 'gone.json'",
        ),
        (
            (ALGM, *given, '--compare', broken),
            f'--compare must be a compare.json of `mmseg-tr compare`, got {str(broken)!r}',
        ),
        ((ALGM, ALGM, *given), 'photo-mosaic-128x128 twice'),
    ):
        assert part in mistake(capsys, 'report', *arguments, '--out', out)
    assert call('report', ALGM, *given, '--images', broken, '--out', out) == 2
    assert 'none of the pictures can be read' in capsys.readouterr().err
    assert 'is a folder' in mistake(capsys, 'report', ALGM, *given, '--out', empty)
    assert mistake(capsys, 'report', ALGM, *given, '--out', page).endswith(f'exists: {page}.')
    assert not out.exists()


@pytest.mark.parametrize('arguments', commands('docs/pictures.md', 'report'), ids=lambda words: words[0])
def test_commands_of_the_page_run_as_written(arguments, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(clone(tmp_path))
    weights, page = (tmp_path / arguments[arguments.index(option) + 1] for option in ('--checkpoint', '--out'))
    weights.parent.mkdir(parents=True)
    weights.write_bytes(checkpoint.read_bytes())
    assert call('report', *arguments) == 0
    assert page.stat().st_size > 100_000
