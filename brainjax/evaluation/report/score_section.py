"""The report's scores: headline, table with intervals drawn, baselines, parts of the test set, ceilings."""

import itertools
from html import escape

from brainjax.evaluation.report import charts, drawings, figures
from brainjax.evaluation.report.contents import Page
from brainjax.evaluation.report.labels import choose_headline, format_baseline, format_label

HOWS = {'mean_of_samples': 'mean over samples', 'best_of_samples': 'best of samples', 'first_sample': 'first sample'}


def format_section(page: Page) -> str:
  """The whole section."""
  scores = page.scores['scores']
  cards = []
  for name in choose_headline(scores):
    entry, mean = scores[name], scores[name]['mean_of_samples']
    low, high = (drawings.format_number(v, entry['unit']) for v in mean['interval'])
    against = (
      f'chance {drawings.format_number(entry["chance"], entry["unit"])}, ' if entry['chance'] is not None else ''
    )
    against += f'shuffled {drawings.format_number(mean["null"]["mean"], entry["unit"])}'
    drawn = drawings.draw_score(mean, entry['unit'], entry['chance'], _baseline_values(page.scores, name))
    drawn += charts.save_buttons(
      f'score_{name}', figures.to_csv(figures.score_table(page.scores, [name])), format_label(name)
    )
    cards.append(
      f'<div class="headline">{escape(format_label(name))}<strong>{drawings.format_number(mean["value"], entry["unit"])}</strong>'
      f'{drawn}<span>95 % interval {low} to {high}</span><span>{against}</span></div>'
    )
  least = 1 / page.scores['protocol']['num_shuffles']
  rows = [
    _score_row(name, entry, how, _baseline_values(page.scores, name), least)
    for name, entry in scores.items()
    for how in HOWS
  ]
  radios = ''.join(
    f'<label><input type="radio" name="how" value="{how}"{" checked" * (how == "mean_of_samples")}> {text}</label>'
    for how, text in HOWS.items()
  )
  classifier = f' Classifier: {escape(str(page.scores["classifier"]))}.' if page.scores['classifier'] else ''
  marks = zip(page.scores['baselines'], itertools.cycle(drawings.MARKS))
  baseline_key = ''.join(
    f'<span class="mark">{symbol}</span> {escape(format_baseline(baseline))} ' for baseline, (symbol, _) in marks
  )
  heads = ('score', 'value', 'with its interval', '95 % interval', 'chance', 'shuffled', 'p')
  return (
    f'<p class="note">Mean over samples.</p><div class="headlines">{"".join(cards)}</div>{_verdicts(page.scores)}'
    f'<h3>All scores</h3><fieldset><legend>Over the samples of an item</legend>{radios}</fieldset>'
    '<p class="note"><span class="key k0"></span>value and 95 % bootstrap interval over stimuli'
    '<span class="key kn"></span>shuffled pairings (95 %)'
    f'{baseline_key} ┆ chance. '
    f'Best of samples is chosen with knowledge of the stimulus: an upper bound, not an accuracy.{classifier}</p>'
    f'{drawings.format_table("Table of scores", heads, rows, "scores")}'
    f'<details><summary>All fractions in one figure</summary><figure class="wide">{charts.to_image(figures.scores(page.scores))}'
    '</figure></details>'
    f'{_frechet(page.scores.get("fid", {}))}{_differences(page.scores["baselines"])}{_zero_shot(page.scores)}'
    f'{_parts(page.scores, least)}{_ceiling(page.scores)}'
  )


def _baseline_values(scores: dict, name: str) -> dict[str, float]:
  """Name for a reader -> value of one score."""
  tables = scores['baselines'].items()
  return {format_baseline(b): table[name]['first_sample']['value'] for b, table in tables if name in table}


def _score_row(name: str, entry: dict, how: str, baselines: dict[str, float], least: float) -> str:
  unit, part = entry['unit'], entry[how]
  # Chance is that of one sample. For the best of several see the shuffled pairings.
  level = None if how == 'best_of_samples' else entry['chance']
  chance = '–' if level is None else drawings.format_number(level, unit)
  direction = '' if entry['higher_is_better'] else ' (smaller is better)'
  head = f'{escape(format_label(name))}<small>{escape(entry["description"])}{direction}</small>'
  return (
    f'<tr role="row" data-how="{how}"><th scope="row" role="rowheader">{head}</th>'
    f'<td role="cell" class="number">{drawings.format_number(part["value"], unit)}</td>'
    f'<td role="cell" class="drawn">{drawings.draw_score(part, unit, level, baselines)}</td>'
    f'<td role="cell" data-label="95 % interval">{" to ".join(drawings.format_number(v, unit) for v in part["interval"])}</td>'
    f'<td role="cell" data-label="chance">{chance}</td>'
    f'<td role="cell" data-label="shuffled">{" to ".join(drawings.format_number(v, unit) for v in part["null"]["interval"])}</td>'
    f'<td role="cell" data-label="p">{_p_value(part, least)}</td></tr>'
  )


def _p_value(entry: dict, least: float) -> str:
  """The p value as text. Below 1 / shuffles only a bound is known."""
  p = entry['null']['p_value']
  return f'&lt; {least:.2g}' if p < least else f'{p:.3g}'


def _frechet(distances: dict[str, dict]) -> str:
  """The Frechet distance by each network's features: no interval, so a sentence and not a row."""
  items = []
  for name, distance in distances.items():
    others = ''.join(
      f', {format_baseline(b)} {drawings.format_number(v)}' for b, v in distance.get('baselines', {}).items()
    )
    items.append(f'{name}: model, first sample {drawings.format_number(distance["first_sample"])}{others}')
  if not items:
    return ''
  count = ' and '.join(map(str, distance['num_images']))
  text = (
    f'Frechet distance (FID) of features, smaller is better: {"; ".join(items)}. Of {count} pictures it is far too '
    'large: it compares methods on these pictures only.'
  )
  return f'<p class="note">{escape(text)}</p>'


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
        f'<tr><th scope="row">{escape(format_label(name))}</th><td>{entry["first_sample"]["value"]:.4g}</td>'
        f'<td>{difference:+.4g}</td><td>{low:+.4g} to {high:+.4g}</td><td>{verdict}</td></tr>'
      )
    heads = ('score', 'baseline', 'model − baseline', '95 % interval', 'verdict')
    name = escape(format_baseline(baseline))
    parts.append(
      f'<details><summary>Every score against the baseline: {name}</summary>'
      f'{drawings.format_table(f"Baseline {name}", heads, rows)}</details>'
    )
  return ''.join(parts)


def _parts(scores: dict, least: float) -> str:
  """Headline scores of each subset, and of single trials."""
  parts = dict(scores['subsets'])
  if 'single_trials' in scores:
    count = scores['single_trials'].get('trials_averaged', 1)  # earlier versions did not write it
    what = 'single trials' if count == 1 else f'means of {count} trials'
    parts[f'{what}, one sample each'] = scores['single_trials']
  rows = []
  for name, subset in parts.items():
    for score in choose_headline(subset['scores']) if subset['scores'] else []:
      entry, mean = subset['scores'][score], subset['scores'][score]['mean_of_samples']
      values = [
        drawings.format_number(v, entry['unit']) for v in (mean['value'], *mean['interval'], *mean['null']['interval'])
      ]
      cells = (str(subset['num_items']), escape(format_label(score)), values[0], f'{values[1]} to {values[2]}')
      cells += (f'{values[3]} to {values[4]}', _p_value(mean, least))
      rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    if not subset['scores']:
      rows.append(f'<tr><th scope="row">{escape(name)}</th><td>0</td><td colspan="5">no items</td></tr>')
  if not rows:
    return ''
  heads = ('part', 'items', 'score', 'mean over samples', '95 % interval', 'shuffled', 'p')
  return f'<h3>Parts of the test set</h3>{drawings.format_table("Parts of the test set", heads, rows)}'


def _verdicts(scores: dict) -> str:
  """One sentence a baseline on the first headline score: better, worse, or not shown to differ."""
  name = choose_headline(scores['scores'])[0]
  sentences = []
  for baseline, table in scores['baselines'].items():
    entry = table[name]
    difference, (low, high) = entry['model_minus_baseline']['difference'], entry['model_minus_baseline']['interval']
    unit = scores['scores'][name]['unit']
    sign = 1 if entry['higher_is_better'] else -1
    if low <= 0 <= high:
      words = 'is not shown to differ from'
    else:
      words = 'beats' if sign * low > 0 else 'is worse than'
    numbers = ' to '.join(_signed(v, unit) for v in (low, high))
    about = scores.get('about_baselines', {}).get(baseline, {}).get('method', '')
    sentences.append(
      f'<li>In {escape(format_label(name))}, the model {words} <b>{escape(format_baseline(baseline))}</b>'
      f'{f" ({escape(about)})" if about else ""}: difference {_signed(difference, unit)}, '
      f'95 % interval of the paired difference {numbers}.</li>'
    )
  return f'<ul class="verdicts">{"".join(sentences)}</ul>' if sentences else ''


def _signed(value: float, unit: str) -> str:
  return f'{100 * value:+.1f} points' if unit == 'fraction' else f'{value:+.3g}'


def _zero_shot(scores: dict) -> str:
  overlap = scores.get('zero_shot')
  if not overlap:
    return ''
  both, total = overlap['num_test_categories_in_training'], overlap['num_test_categories']
  which = f': {", ".join(overlap["test_categories_in_training"])}' if both else ''
  unknown = overlap.get('num_test_items_without_category', 0)
  if not total:
    return '<h3>Seen or unseen</h3><p class="note">The data set does not say what the test pictures show, so this is not known.</p>'
  text = (
    f'{both} of {total} test categories have pictures in the training set (matched by {overlap["matched_by"]}){which}. '
    f'This is about {overlap["note"]}.'
  )
  text += f' Of {unknown} test items the category is not known.' if unknown else ''
  shared = overlap.get('simulated_attributes')
  if shared:
    counts = shared['test_categories_by_most_attributes_shared_with_a_training_category']
    shares = ', '.join(f'{n} share {k}' for k, n in counts.items())
    text += (
      f' Simulated categories are combinations of {len(shared["attributes"])} attributes; with the training category '
      f'most like them, {shares} of these; test values without training pictures: '
      f'{sum(shared["values_in_test_but_not_in_training"].values())}.'
    )
  return f'<h3>Seen or unseen</h3><p class="note">{escape(text)}</p>'


def _ceiling(scores: dict) -> str:
  items = []
  for subject, ceiling in scores.get('noise_ceiling', {}).items():
    if 'missing' in ceiling:
      items.append(f'{subject}: none ({ceiling["missing"]})')
      continue
    halves, voxels = ceiling['split_half_identification'], ceiling['voxels']
    low, high = (f'{100 * v:.1f}' for v in halves['interval'])
    count = ' to '.join(str(n) for n in sorted(set(ceiling['repetitions'])))
    items.append(
      f'{subject}: with {count} repetitions, one half of the test responses identifies the stimulus against another '
      f'by the other half in {100 * halves["value"]:.1f} % (95 % interval {low} to {high}, chance 50 %). Of the variance '
      f'of an averaged voxel the stimulus explains {100 * voxels["median"]:.0f} % (median over voxels).'
    )
  if not items:
    return ''
  return f'<h3>Noise ceiling of the fMRI</h3>{"".join(f"<p class=note>{escape(item)}</p>" for item in items)}'


def format_copying(scores: dict) -> str:
  """How many samples are closer to a training picture than to their stimulus; '' where this was not counted."""
  nearest = scores.get('nearest_training')
  if not nearest:
    return ''
  share = 100 * nearest['fraction_nearer_to_training_than_to_stimulus']
  return (
    f'<p class="note">Copying: {share:.0f} % of the samples are closer (pixel correlation) to some training picture '
    f'than to their own stimulus; {nearest["num_distinct_nearest"]} of {nearest["num_training_images"]} training pictures '
    'are nearest to a sample.</p>'
  )
