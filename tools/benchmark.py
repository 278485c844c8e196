"""Benchmark suites: every method and published row beside the plain network and its ideal; a file of numbers, a report.

python tools/benchmark.py --suite cpu                       # all rows, about 90 minutes on two cores
python tools/benchmark.py --suite cpu --rows 'algm*' growth # some of them, into the same files
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmseg_tr.cli.options import require_openmmlab, run_tool


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--suite', default='cpu', help='cpu-small, cpu or gpu (default: cpu)')
    parser.add_argument('--out', default='docs/benchmarks', metavar='DIR', help='default: docs/benchmarks')
    parser.add_argument('--name', help='of the files (default: machine and date)')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help="names or kinds of rows, as 'algm*' or growth")
    parser.add_argument('--list', action='store_true', help='print the rows of the suite and stop')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: that of the suite)')
    parser.add_argument('--threads', type=int, metavar='N', help='threads of the CPU (default: as torch chooses)')
    parser.add_argument('--seconds', type=float, metavar='S', help='begin no row after this time')
    parser.add_argument('--force', action='store_true', help='measure again what is finished')
    parser.add_argument('--report', metavar='JSON', help='write the report of this file again and stop')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    require_openmmlab('to build the networks of configs')
    args = parse_args(argv)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from benchmarks.report import summary, write_report
    from benchmarks.run import read_result, run_suite
    from benchmarks.suites import chosen_rows, suite_of

    console = Console()
    if args.report:
        content = read_result(Path(args.report))
        console.print(f'written: {write_report(content, Path(args.report))}', highlight=False)
        return
    if args.list:
        for row in chosen_rows(suite_of(args.suite), args.rows):
            console.print(f'{row.kind:13}{row.name}', highlight=False)
        return
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task('')

    def progress(done: int, total: int, row: str) -> None:
        bar.start()  # not before: mistakes are told without it
        bar.update(task, completed=done, total=total, description=row)

    try:
        outcome = run_suite(
            args.suite,
            args.out,
            rows=args.rows,
            file_name=args.name,
            device=args.device,
            threads=args.threads,
            seconds=args.seconds,
            force=args.force,
            progress=progress,
        )
    finally:
        bar.stop()
    report = write_report(outcome.content, outcome.path)
    console.print(summary(outcome.content))
    console.print(f'{outcome.content["seconds"]:.0f} s; written to {outcome.path} and {report}', highlight=False)
    if outcome.left:
        console.print(
            f'Time was up before {len(outcome.left)} rows: run the same command again to measure them.', highlight=False
        )


if __name__ == '__main__':
    sys.exit(run_tool(main))
