"""Format a benchmark's report as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mmseg_tr.analysis.benchmark import Measured, Run
from mmseg_tr.analysis.mac_rules import MEANINGS
from mmseg_tr.analysis.macs import PARTS
from mmseg_tr.apis.benchmark import BenchmarkReport

EXPLANATION = """\
GMACs: 1e9 multiply-adds an image, to logits at its size (the "GFLOPs" of the papers); true GFLOPs are twice that. \
Rule {rule} counts {meaning}; rule all counts everything that computes, matching included. \
images/s: from normalised image to scores on the decoder's grid; {labels}. \
Times of both networks were taken in turn on the same, different images; plain runs fused attention."""

LABELS = dict(
    labels='labels/s: on to the class of every pixel',
    poses='poses/s: on to decoded keypoints, each image once, without a flip test',
)


def print_report(report: BenchmarkReport, console: Console | None = None) -> None:
    """Return the setup, a table for every shape and batch size, notes and warnings."""
    console, about = console or Console(), report.about
    console.print(f'[bold]{about["config"]}[/bold]', highlight=False)
    console.print(
        f'{about["device"]} ({about["machine"]}), {about["threads"]} threads, {about["precision"]}'
        f'{", compiled" if about["compiled"] else ""}, torch {about["torch"]}, {about["image_source"]}',
        highlight=False,
    )
    shown = set()
    for run in report.runs:
        console.print(run_table(run, parts=run.shape not in shown))
        shown.add(run.shape)
    said = EXPLANATION.format(
        rule=about['count'], meaning=MEANINGS[about['count']], labels=LABELS[report.runs[0].labels]
    )
    console.print(said, style='dim', highlight=False)
    for warning in report.warnings:
        console.print(f'[yellow]Warning[/yellow] {warning}', highlight=False)


def run_table(run: Run, parts: bool = True) -> Table:
    """Return a table of the plain and the reduced network with their ratio; parts: also multiply-adds by part."""
    plain, model, ratios = run.plain, run.model, run.ratios or {}
    table = Table(
        title=f'{run.shape[0]}x{run.shape[1]}, batch {run.batch_size}, {run.images} images', title_justify='left'
    )
    table.add_column('')
    for heading in ('plain', 'reduced', 'ratio') if ratios else ('plain',):
        table.add_column(heading, justify='right')

    def row(name: str, values: tuple[str, str], ratio: str | None = None, **style) -> None:
        cells = (*values, f'{ratios[ratio]:.2f}' if ratio else '') if ratios else values[:1]
        table.add_row(name, *cells, **style)

    def both(text) -> tuple[str, str]:
        return text(plain), text(model)

    row('parameters M', both(lambda m: f'{m.params / 1e6:.2f}'))
    row(f'GMACs, {run.rule}', both(lambda m: f'{m.gmacs:.3f}'), 'work', style='bold')
    row('GFLOPs', both(lambda m: f'{m.gflops:.3f}'), 'work')
    row('GMACs, all', both(lambda m: f'{m.gmacs_all:.3f}'), 'work_all', end_section=True)
    if parts:
        names = [part for part in PARTS if _shown(part, plain, model)]
        for part in names:
            text = both(lambda m, part=part: f'{m.parts.get(part, 0):.3f} ({m.parts_all.get(part, 0):.3f})')
            row(f'  {part.replace("_", " ")} (all)', text, end_section=part == names[-1])
    row('images/s', both(lambda m: f'{m.images_per_second:.3g}'), 'time', style='bold')
    row(f'{run.labels}/s', both(lambda m: f'{m.images_per_second_to_labels:.3g}'), 'time_to_labels')
    if run.published_images_per_second:
        published = f'{run.published_images_per_second:.3g}'
        row('images/s, published attention', (published, ''), 'time_over_published')
    if plain.peak_memory is not None:
        row('peak memory MiB', both(lambda m: f'{m.peak_memory / 2**20:.0f}'))
    if ratios:
        row('efficiency: time / work ratio', ('', ''), 'efficiency')
        for part, share in (run.shares or {}).items():
            row(f'{part}, share of the time', ('', f'{share:.1%}'))
    if model.tokens_per_layer is not None:
        row('tokens per layer', both(lambda m: tokens_text(m.tokens_per_layer)))
    if model.tokens_per_stage is not None:
        row('queries to keys, per stage', both(stages_text))
    return table


def _shown(part: str, plain: Measured, model: Measured) -> bool:
    """Return whether a part has a number that does not show as 0.000."""
    counts = (plain.parts_all, model.parts_all, plain.parts, model.parts)
    return max(found.get(part, 0) for found in counts) >= 5e-4


def stages_text(measured: Measured) -> str:
    """Return a line per stage: '16384 to 256'."""
    return '\n'.join(f'{stage["queries"]} to {stage["keys"]}' for stage in measured.tokens_per_stage or ())


def tokens_text(tokens: list[float]) -> str:
    """Return a line per run of equal numbers: '1025 x4', '779 x8'."""
    groups: list[tuple[float, int]] = []
    for count in tokens:
        times = groups.pop()[1] if groups and groups[-1][0] == count else 0
        groups.append((count, times + 1))
    return '\n'.join(f'{count:.6g} x{times}' for count, times in groups)
