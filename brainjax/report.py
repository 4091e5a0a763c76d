"""Command: figures of a run for a paper: brainjax report figures RUN --out=DIR

Each figure is a PDF and an SVG (vectors, fonts embedded) as wide as one column (89 mm) and as two (183 mm), and a CSV of its
numbers. scores.tex is the table of scores.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from brainjax import files
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.evaluation.interpretation import results
from brainjax.evaluation.report import charts, figures, paper
from brainjax.evaluation.score import read_scores


def collect(run: Path) -> tuple[dict, list[figures.Figure]]:
  """The scores of a run and all its figures.

  Raises:
    UserError: it has no scores, or they are damaged.
  """
  scores = read_scores(run)
  found = [figures.scores(scores), *figures.of_categories(scores)]
  for stage, panels in charts.read_curves(run).items():
    for name, splits in panels.items():
      found.append(figures.curve(stage, name, splits, partial(charts.draw_curve, splits=splits)))
  explained = results.read(run)
  return scores, found + (figures.of_interpretation(explained[0]) if explained else [])


@command_line
def main(argv: Sequence[str] | None = None) -> None:
  """Command line.

  Raises:
    UserError: the run has no scores, or `--out` exists.
  """
  parser = ArgumentParser(prog='brainjax report', description=__doc__.splitlines()[0])
  commands = parser.add_subparsers(dest='command', required=True)
  drawing = commands.add_parser('figures', help='figures for a paper, their numbers, and the table of scores')
  drawing.add_argument('run', type=Path, help='workdir of an evaluated run')
  drawing.add_argument('--out', type=Path, required=True, help='new folder')
  args = parser.parse_args(argv)
  if args.out.exists():
    raise UserError(f'--out={args.out} exists already; nothing is overwritten, choose another folder.')
  scores, found = collect(args.run)
  with files.atomic_folder(args.out) as folder:
    folder.mkdir()
    for figure in found:
      paper.write(figure, folder)
    (folder / 'scores.tex').write_text(paper.latex(scores))
  print(f'wrote {len(found)} figures and scores.tex into {args.out}')


if __name__ == '__main__':
  sys.exit(main())
