"""The page of the app, of Gradio's parts."""

from __future__ import annotations

import html
import json
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import numpy as np

from mmseg_tr.apis.app.look import PLAIN, Look, Playground, read_picture
from mmseg_tr.errors import DatasetError, InputError

SIDES = ('left', 'right')
LEAST, START = 20, 70  # percent of the multiply-adds: the end of the slider, and where it stands at first
FONTS = ['system-ui', 'sans-serif']  # of the machine: nothing is fetched
CSS = """
.numbers table { width: 100%; border-collapse: collapse }
.numbers td, .numbers th { text-align: left; padding: 2px 8px }
.bar { background: #3b82f6; height: 10px; display: inline-block } footer { display: none !important }
"""


def build_page(play: Playground, title: str, megabytes: float, start: np.ndarray | None = None) -> gr.Blocks:
    """The page. start: a picture that is there when it opens."""
    methods = play.methods
    with gr.Blocks(title='mmseg_tr', analytics_enabled=False) as page:
        gr.Markdown(f'# Token reduction on your picture\n{html.escape(title)}. Pictures stay on this machine.')
        with gr.Row():
            with gr.Column(min_width=280):
                picture = gr.Image(
                    start, label='Picture', type='filepath', sources=['upload', 'clipboard'],
                    buttons=['fullscreen'], elem_id='picture', height=260,
                )  # fmt: skip
            with gr.Column(min_width=280):
                asked = []
                for side, method in zip(SIDES, (play.first(START), PLAIN)):
                    asked.append(gr.Dropdown(methods, value=method, label=f'Method, {side}', elem_id=f'method-{side}'))
                    asked.append(
                        gr.Slider(
                            LEAST, 100, value=START, step=5, label=f'Budget, {side}: % of the multiply-adds',
                            elem_id=f'budget-{side}',
                        )
                    )  # fmt: skip
                button = gr.Button('Show', variant='primary', elem_id='show')
        message = gr.Markdown(elem_id='message')
        shown: list[Any] = []
        with gr.Row():
            for side in SIDES:
                with gr.Column(min_width=280):
                    shown.append(gr.HTML(elem_id=f'numbers-{side}', elem_classes='numbers'))
                    for kind, label in (
                        ('prediction', 'Prediction'), ('merged', 'Merged groups, last layer'),
                        ('changed', 'Red: another label than the plain model'),
                    ):  # fmt: skip
                        shown.append(
                            gr.Image(
                                label=label,
                                elem_id=f'{kind}-{side}',
                                interactive=False,
                                buttons=['download', 'fullscreen'],
                            )
                        )
        with gr.Accordion('Config and Python of what is on the screen', open=False):
            link = gr.Markdown(elem_id='link')
            codes = [gr.Code(language='python', label=f'{side}', elem_id=f'code-{side}') for side in SIDES]

        def run(path: str | None, *values: Any) -> tuple[Any, ...]:
            return answer(play, path, values, megabytes)

        outputs = [message, *shown, link, *codes]
        button.click(run, [picture, *asked], outputs, api_name=False)
        page.load(restored(methods), None, asked, api_name=False)
    return page


def answer(play: Playground, path: str | None, values: tuple[Any, ...], megabytes: float) -> tuple[Any, ...]:
    """Everything that the page shows for a picture, two methods and their budgets; one sentence for what cannot be."""
    chosen = [(str(method), int(percent)) for method, percent in zip(values[::2], values[1::2])]
    shown: list[Any] = []
    codes, said = [], []
    try:
        if path is None:
            raise DatasetError('choose a picture first.')
        pixels = read_picture(path, megabytes)
    except InputError as error:
        return (html.escape(str(error)), *[None] * 8, '', '', '')
    for side, (method, percent) in zip(SIDES, chosen):
        try:
            look = play.look(pixels, method, percent)
        except InputError as error:
            said.append(f'{side}: {html.escape(str(error))}')
            shown += [None] * 4
            codes.append('')
            continue
        shown += [numbers(look), look.prediction, look.merged, look.changed]
        codes.append(code(play, look))
    query = urlencode({key: value for side, (method, percent) in zip(SIDES, chosen)
                       for key, value in ((f'{side}', method), (f'{side}_budget', percent))})  # fmt: skip
    return ('\n\n'.join(said), *shown, f'[Link to these settings](?{query})', *codes)


def restored(methods: list[str]):
    """The function that reads the settings of a link."""

    def restore(request: gr.Request) -> list[Any]:
        query = dict(request.query_params)
        values: list[Any] = []
        for side in SIDES:
            method, percent = query.get(side), query.get(f'{side}_budget', '')
            values.append(method if method in methods else gr.skip())
            values.append(int(percent) if percent.isdecimal() and LEAST <= int(percent) <= 100 else gr.skip())
        return values

    return restore


def numbers(look: Look) -> str:
    """The table of a method's numbers and its tokens per layer."""
    rows = [
        ('Method', html.escape(look.method)),
        ('Milliseconds', f'{look.milliseconds:.1f}, plain {look.plain_milliseconds:.1f} '
                         f'({look.plain_milliseconds / look.milliseconds:.2f}x)'),
        ('GMACs', f'{look.gmacs:.3g}, plain {look.plain_gmacs:.3g} '
                  f'({100 * (look.gmacs / look.plain_gmacs - 1):+.0f} %)'),
        ('Labels as plain', f'{look.agreement:.1f} %'),
    ]  # fmt: skip
    lines = [f'<tr><th>{name}</th><td>{value}</td></tr>' for name, value in rows]
    for name, tokens, patches in look.tokens:
        bar = f'<span class="bar" style="width:{60 * tokens / max(patches, 1):.0f}%"></span>'
        lines.append(f'<tr><th>{html.escape(name)}</th><td>{bar} {tokens} of {patches} tokens</td></tr>')
    return f'<table>{"".join(lines)}</table>'


def code(play: Playground, look: Look) -> str:
    """A config's line and lines of Python that do what is shown."""
    setting = 'None' if look.settings is None else json.dumps(look.settings)
    setting = setting.replace('null', 'None').replace('true', 'True').replace('false', 'False')
    return f'# in a config\nmodel = dict(backbone=dict(reduction={setting}))\n\n{play.subject.code(look.settings)}'
