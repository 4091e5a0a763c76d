"""Names of scores and baselines for a reader, and which scores stand at the top."""

from brainjax.evaluation.scores.pixels import PUBLISHED_SSIM
from brainjax.evaluation.scores.published import COLUMNS
from brainjax.stages.registry import STAGES

MEASURES = {'mse': 'MSE', 'pcc': 'PCC', 'ssim': 'SSIM', 'lpips': 'LPIPS', 'lpips_alex': 'LPIPS'}
# What the training loop logs in every stage. The metrics of a stage are explained by its `StageSpec.curves`.
CURVES = {
  'loss': 'what the stage minimises',
  'learning_rate': 'the schedule',
  'gradient_norm': 'growth without end means divergence',
  'update_ratio': 'size of a step over that of the parameters',
}
BASELINES = {'ridge': 'ridge', 'ridge_nearest': 'ridge, nearest'}


def format_label(name: str) -> str:
  """A score's name for a reader: class_50way_top1 -> 50-way top-1 class."""
  kind, _, rest = name.partition('_')
  if name in COLUMNS:
    return COLUMNS[name].title if name != PUBLISHED_SSIM else 'SSIM, grey'
  if kind == 'class':
    return f'{rest.replace("way", "-way").replace("_top", " top-")} class'
  if kind == 'attribute':
    return rest
  if kind == 'pairwise':
    return f'pairwise {_measure(rest)}'
  if kind == 'identification':
    ways, _, measure = rest.partition('_')
    return f'{ways.replace("way", "-way")} {_measure(measure)}'
  return _measure(name)


def _measure(name: str) -> str:
  return MEASURES.get(name, name.replace('_', ' '))


def explain_curve(stage: str, name: str) -> str:
  """The name of a training curve and, where it is known, its meaning."""
  known = {**CURVES, **(STAGES[stage].curves if stage in STAGES else {})}  # a workdir may hold stages of a plugin
  meaning = 'largest magnitude of these activations' if name.startswith('max_') else known.get(name, '')
  return f'{name}: {meaning}' if meaning else name


def format_baseline(name: str) -> str:
  """A baseline's name for a reader."""
  return BASELINES.get(name, name)


def choose_headline(scores: dict[str, dict]) -> list[str]:
  """The scores that stand at the top: 50-way top-1 (or the largest there is), pairwise PCC, SSIM."""
  ways = [name for name in scores if name.startswith('class_') and name.endswith('_top1')]
  largest = sorted(ways, key=lambda name: int(name.split('_')[1].removesuffix('way')))[-1:]
  first = ['class_50way_top1'] if 'class_50way_top1' in scores else largest
  return [*first, *(name for name in ('pairwise_pcc', 'ssim') if name in scores)] or list(scores)[:3]
