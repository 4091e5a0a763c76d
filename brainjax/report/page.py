"""The self-contained report.html: scores, gallery, curves, provenance in one file that opens from disk."""

import dataclasses
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from brainjax.files import atomic_write
from brainjax.metrics.images import Images
from brainjax.report import drawings, gallery
from brainjax.report.labels import headline, label

ASSETS = Path(__file__).parent
HOWS = {'mean_of_samples': 'mean over samples', 'best_of_samples': 'best of samples', 'first_sample': 'first sample'}
MAX_BYTES = 15_000_000


@dataclasses.dataclass(frozen=True)
class Trace:
  """One fMRI sample of a masked stage: original V, predicted V, masked V (true where the model did not see)."""

  original: np.ndarray
  predicted: np.ndarray
  masked: np.ndarray


@dataclasses.dataclass(frozen=True)
class Page:
  """Everything the report shows.

  Attributes:
    title: heading.
    images: stimuli and samples.
    scores: what scores.json holds.
    items: what scores_items.npz holds: 'scores/<name>' N S, ....
    summary: a sentence below the title.
    subject: N texts, or None.
    baselines: name -> N H W 3 uint8.
    nearest: N S H W 3 uint8, nearest training picture of each sample, or None.
    curves: stage -> scalar -> split -> (steps, values), from `stage_metrics`.
    traces: stage -> samples of fMRI reconstructions.
    denoising: label -> H W 3 uint8, one sample along the sampler's steps.
    provenance: title -> mapping of plain values (config, versions, weights, data statistics).
  """

  title: str
  images: Images
  scores: dict
  items: dict[str, np.ndarray]
  summary: str = ''
  subject: np.ndarray | None = None
  baselines: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  nearest: np.ndarray | None = None
  curves: dict[str, dict] = dataclasses.field(default_factory=dict)
  traces: dict[str, list[Trace]] = dataclasses.field(default_factory=dict)
  denoising: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  provenance: dict[str, dict] = dataclasses.field(default_factory=dict)


def _scores_section(page: Page) -> str:
  scores = page.scores['scores']
  cards = []
  for name in headline(scores):
    entry, mean = scores[name], scores[name]['mean_of_samples']
    low, high = (drawings.number(v, entry['unit']) for v in mean['interval'])
    against = f'chance {drawings.number(entry["chance"], entry["unit"])}, ' if entry['chance'] is not None else ''
    against += f'shuffled {drawings.number(mean["null"]["mean"], entry["unit"])}'
    cards.append(
      f'<div class="headline">{escape(label(name))}<strong>{drawings.number(mean["value"], entry["unit"])}</strong>'
      f'<span>95 % interval {low} to {high}</span><span>{against}</span></div>'
    )
  rows = []
  for name, entry in scores.items():
    base = {b: table[name]['first_sample']['value'] for b, table in page.scores['baselines'].items() if name in table}
    for how in HOWS:
      rows.append(_score_row(name, entry, how, base))
  radios = ''.join(
    f'<label><input type="radio" name="how" value="{how}"{" checked" * (how == "mean_of_samples")}> {text}</label>'
    for how, text in HOWS.items()
  )
  classifier = f' Classifier: {escape(str(page.scores["classifier"]))}.' if page.scores['classifier'] else ''
  baseline_key = '<span class="diamond">◇</span> baseline' if page.scores['baselines'] else ''
  heads = ('score', 'value', 'with its interval', '95 % interval', 'chance', 'shuffled', 'p')
  return (
    f'<div class="headlines">{"".join(cards)}</div>'
    f'<h3>All scores</h3><fieldset><legend>Over the samples of an item</legend>{radios}</fieldset>'
    '<p class="note"><span class="key k0"></span>value and 95 % bootstrap interval over stimuli'
    '<span class="key kn"></span>shuffled pairings (95 %)'
    f'{baseline_key} ┆ chance. '
    f'Best of samples is chosen with knowledge of the stimulus: an upper bound, not an accuracy.{classifier}</p>'
    f'{_table("Table of scores", heads, rows)}'
    f'{_differences(page.scores["baselines"])}{_subsets(page.scores["subsets"])}{_nearest_note(page.scores)}'
  )


def _table(name: str, heads: Iterable[str], rows: Iterable[str]) -> str:
  """A table that scrolls sideways by itself on a narrow screen, also by keyboard."""
  columns = ''.join(f'<th scope="col">{escape(head)}</th>' for head in heads)
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
    f'<thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
  )


def _score_row(name: str, entry: dict, how: str, baselines: dict[str, float]) -> str:
  unit, part = entry['unit'], entry[how]
  chance = '–' if entry['chance'] is None else drawings.number(entry['chance'], unit)
  direction = '' if entry['higher_is_better'] else ' (smaller is better)'
  head = f'{escape(label(name))}<small>{escape(entry["description"])}{direction}</small>'
  return (
    f'<tr data-how="{how}"><th scope="row">{head}</th>'
    f'<td>{drawings.number(part["value"], unit)}</td>'
    f'<td>{drawings.score_row(part, unit, entry["chance"], baselines)}</td>'
    f'<td>{" to ".join(drawings.number(v, unit) for v in part["interval"])}</td><td>{chance}</td>'
    f'<td>{" to ".join(drawings.number(v, unit) for v in part["null"]["interval"])}</td>'
    f'<td>{part["null"]["p_value"]:.3g}</td></tr>'
  )


def _differences(baselines: dict[str, dict]) -> str:
  """Model minus baseline, in words where the interval allows a claim."""
  parts = []
  for baseline, table in baselines.items():
    rows = []
    for name, entry in table.items():
      low, high = entry['model_minus_baseline']['interval']
      sign = 1 if entry['higher_is_better'] else -1
      verdict = 'no difference shown' if low <= 0 <= high else f'{"model" if sign * low > 0 else "baseline"} better'
      difference = entry['model_minus_baseline']['difference']
      rows.append(
        f'<tr><th scope="row">{escape(label(name))}</th><td>{entry["first_sample"]["value"]:.4g}</td>'
        f'<td>{difference:+.4g}</td><td>{low:+.4g} to {high:+.4g}</td><td>{verdict}</td></tr>'
      )
    heads = ('score', 'baseline', 'model − baseline', '95 % interval', 'verdict')
    parts.append(f'<h3>Against the baseline: {escape(baseline)}</h3>{_table(f"Baseline {baseline}", heads, rows)}')
  return ''.join(parts)


def _subsets(subsets: dict[str, dict]) -> str:
  rows = []
  for name, subset in subsets.items():
    for score in headline(subset['scores']) if subset['scores'] else []:
      entry, mean = subset['scores'][score], subset['scores'][score]['mean_of_samples']
      values = [drawings.number(v, entry['unit']) for v in (mean['value'], *mean['interval'])]
      cells = (str(subset['num_items']), escape(label(score)), values[0], f'{values[1]} to {values[2]}')
      rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    if not subset['scores']:
      rows.append(f'<tr><th scope="row">{escape(name)}</th><td>0</td><td colspan="3">no items</td></tr>')
  if not rows:
    return ''
  heads = ('items', 'number', 'score', 'mean over samples', '95 % interval')
  return f'<h3>Parts of the test set</h3>{_table("Parts of the test set", heads, rows)}'


def _nearest_note(scores: dict) -> str:
  found = scores.get('nearest_training')
  if not found:
    return ''
  share = 100 * found['fraction_nearer_to_training_than_to_stimulus']
  return (
    f'<p class="note">Copying: {share:.0f} % of the samples are closer (pixel correlation) to some training picture '
    f'than to their own stimulus; {found["num_distinct_nearest"]} of {found["num_training_images"]} training pictures '
    'are nearest to a sample.</p>'
  )


def _charts_section(page: Page) -> str:
  parts = []
  for stage, panels in page.curves.items():
    figures = []
    for name, splits in panels.items():
      keys = ''.join(f'<span class="key k{i % 3}"></span>{escape(split)}' for i, split in enumerate(splits))
      figures.append(
        f'<figure>{drawings.curve(f"{stage} {name}", splits)}<figcaption>{escape(name)}{keys}</figcaption></figure>'
      )
    parts.append(f'<h3>{escape(stage)}</h3><div class="charts">{"".join(figures)}</div>')
  return ''.join(parts)


def _traces_section(page: Page) -> str:
  keys = '<span class="key k2"></span>original<span class="key k0"></span>predicted<span class="key kn"></span>masked'
  parts = [f'<p class="note">First voxels of validation samples.{keys}</p>']
  for stage, samples in page.traces.items():
    charts = (
      drawings.trace(f'{stage} sample {i + 1}', t.original, t.predicted, t.masked) for i, t in enumerate(samples)
    )
    parts.append(f'<h3>{escape(stage)}</h3><div class="charts">{"".join(charts)}</div>')
  return ''.join(parts)


def _mapping(mapping: dict) -> str:
  def text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

  return f'<dl>{"".join(f"<dt>{escape(str(k))}</dt><dd>{escape(text(v))}</dd>" for k, v in mapping.items())}</dl>'


def _provenance_section(page: Page) -> str:
  parts = {'Protocol of the scores': page.scores['protocol'], **page.provenance}
  if 'released_protocol' in page.scores:
    parts["The release's own protocol (for comparison with papers only)"] = page.scores['released_protocol']
  return ''.join(
    f'<details><summary>{escape(name)}</summary>{_mapping(part)}</details>' for name, part in parts.items()
  )


def write_page(page: Page, path: Path, max_bytes: int = MAX_BYTES) -> None:
  """Writes the report.

  Args:
    page: what it shows.
    path: the HTML file.
    max_bytes: size limit of the file; pictures are compressed as far as it asks.
  """
  body = {
    'scores': ('Scores', _scores_section(page)),
    'training': ('Training curves', _charts_section(page)) if page.curves else None,
    'fmri': ('fMRI reconstructions', _traces_section(page)) if page.traces else None,
    'provenance': ('Provenance', _provenance_section(page)),
  }
  assets = {name: (ASSETS / f'page.{name}').read_text() for name in ('html', 'css', 'js')}
  fixed = sum(len(part[1]) for part in body.values() if part) + sum(map(len, assets.values()))
  data = json.dumps(gallery.data(page)).replace('<', '\\u003c')
  pictures, strip = gallery.sections(page, max_bytes - fixed - len(data))
  body['gallery'] = ('Gallery', pictures)
  body['denoising'] = ('Denoising', strip) if strip else None
  order = [key for key in ('scores', 'gallery', 'denoising', 'training', 'fmri', 'provenance') if body[key]]
  shown = ' data-shown="mean_of_samples"'
  sections = (
    f'<section id="{key}" aria-labelledby="{key}-title"{shown * (key == "scores")}>'
    f'<h2 id="{key}-title">{body[key][0]}</h2>{body[key][1]}</section>'
    for key in order
  )
  text = Template(assets['html']).substitute(
    title=escape(page.title),
    summary=escape(page.summary),
    css=assets['css'],
    script=assets['js'],
    data=data,
    navigation=_links((key, body[key][0]) for key in order),
    sections='\n'.join(sections),
  )
  with atomic_write(path) as temporary:
    temporary.write_text(text)


def _links(sections: Iterable[tuple[str, str]]) -> str:
  return ''.join(f'<a href="#{key}">{title}</a>' for key, title in sections)
