"""Values of --cfg-options and --reduction: what people type is read, and nothing in it is run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.values import read_settings, read_value

TYPED = {
    '1': 1, '-1e-4': -1e-4, 'true': True, 'False': False, 'None': None, 'a': 'a', '': '', "'8'": '8',
    'a,b': ['a', 'b'], '[1,2]': [1, 2], '(1, 5)': (1, 5), '(1)': (1,), '[]': [],
    '[(a,b),(c,d)]': [('a', 'b'), ('c', 'd')], '[[1,2],3],4': [[[1, 2], 3], 4],
    '/a/b(1)/x.pth': '/a/b(1)/x.pth', 'http://x/y?z=1': 'http://x/y?z=1', 'my dir/x': 'my dir/x', "'a, b'": 'a, b',
    "dict(type='ALGM', layers=(1, 5))": dict(type='ALGM', layers=(1, 5)),
    "{'type': 'ToMe', 'r': 8}": dict(type='ToMe', r=8),
    '{type: ToMe, r: [1, 2]}': dict(type='ToMe', r=[1, 2]),
    '[dict(type=A, x=dict(y=[1,{a: b}])), dict(type=B)]': [dict(type='A', x=dict(y=[1, dict(a='b')])), dict(type='B')],
    '__import__("os").getcwd()': '__import__("os").getcwd()',
}  # fmt: skip

SETTINGS = {
    'type=ToMe,r=8': dict(type='ToMe', r=8),
    'type=ToMe r=16': dict(type='ToMe', r=16),
    'type=ALGM, layers=1,3, threshold=0.4': dict(type='ALGM', layers=[1, 3], threshold=0.4),
    'layers=(1, 5) threshold=0.5': dict(layers=(1, 5), threshold=0.5),
    'type=CTS,policy_checkpoint=work_dirs/a b/iter_120.pth': dict(
        type='CTS', policy_checkpoint='work_dirs/a b/iter_120.pth'
    ),
}

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.from_regex(r'[a-z_]{1,5}', fullmatch=True), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize('text', TYPED)
def test_a_value_is_read_as_it_looks(text):
    assert repr(read_value(text)) == repr(TYPED[text])


@pytest.mark.parametrize('text', SETTINGS)
def test_settings_are_read_with_commas_and_with_blanks(text):
    assert read_settings(text) == SETTINGS[text]


@settings(max_examples=150, deadline=None)
@given(NESTED)
def test_what_python_writes_is_read_back(value):
    text = repr(value)
    if '\\' in text or any(mark in str(value) for mark in '\'"'):
        return  # escapes are no part of the language
    assert read_value(text) == value


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='()[]{}\'",=: \\dict0a1.-', max_size=30))
def test_any_text_is_read_or_refused(text):
    for read in (read_value, read_settings):
        try:
            read(text)
        except ValueError:
            continue


@pytest.mark.parametrize('text', ['(', 'a)', '[1,2', 'dict(3)', '{a}', '(]', '(' * 5000, 'dict(a=' * 3000])
def test_brackets_that_do_not_match_are_refused(text):
    with pytest.raises(ValueError):
        read_value(text)
