"""Command: packs the weights of a run into one folder to share: brainjax pack RUN --out=model [--push=hf://org/name]

The folder holds `model.safetensors`, which carries everything in its metadata: sizes, input transform, config, scores and
licence. Beside it are the same scores and config for people, and the model card README.md, which the hub shows.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import brainjax
from brainjax import checkpoints, files, hub, locate, workdirs
from brainjax.datasets import registry
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.evaluation.score import SCORES_FILE, read_scores
from brainjax.models.latent_diffusion import LatentDiffusion
from brainjax.stages import reconstruct
from brainjax.stages.registry import RANDOM

CARD = 'README.md'
SAMPLED = reconstruct.STAGE.after  # the stage whose weights make the pictures that are scored
# Ids of the hub for licences that weights may have: https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = (
  'apache-2.0', 'mit', 'bsd', 'bsd-2-clause', 'bsd-3-clause', 'cc0-1.0', 'cc-by-3.0', 'cc-by-4.0', 'cc-by-sa-3.0', 'cc-by-sa-4.0',
  'cc-by-nc-3.0', 'cc-by-nc-4.0', 'cc-by-nd-4.0', 'cc-by-nc-nd-3.0', 'cc-by-nc-nd-4.0', 'cc-by-nc-sa-3.0', 'cc-by-nc-sa-4.0',
  'gpl-3.0', 'lgpl-3.0', 'agpl-3.0', 'mpl-2.0', 'odc-by', 'odbl', 'pddl', 'openrail', 'creativeml-openrail-m', 'unlicense',
)  # fmt: skip
PAPER = 'https://openreview.net/forum?id=YZSLDEE0mw'


def pack(run: Path, out: Path, stage: str = SAMPLED, licence: str = '') -> Path:
  """Writes the folder `out`.

  Args:
    run: workdir of a run, or a folder of weights.
    out: new folder.
    stage: whose weights, where `run` is a workdir.
    licence: of these weights, as their owner gives it.

  Raises:
    UserError: there are no such weights, or `out` exists.
  """
  if out.exists():
    raise UserError(f'--out={out} exists already; nothing is overwritten, choose another folder.')
  folder = run / stage / 'weights' if (run / stage).is_dir() else run
  params, info = checkpoints.load_weights(folder)
  info |= _facts(run, stage, info, licence)
  with files.atomic_folder(out) as temporary:
    temporary.mkdir()
    checkpoints.save_safetensors(temporary / locate.PACKED, params, info)
    for name in ('run', 'scores'):
      if name in info:
        (temporary / f'{name}.json').write_text(json.dumps(info[name], indent=2) + '\n')
    if (run / 'pictures.png').is_file():
      (temporary / 'pictures.png').write_bytes((run / 'pictures.png').read_bytes())
    files.write_sums(temporary)
    (temporary / CARD).write_text(
      card(out.name, info, sum(x.size for x in params.values()), temporary)
    )  # may be edited
  return out


def _facts(run: Path, stage: str, info: Mapping[str, Any], licence: str) -> dict[str, Any]:
  """What a run knows about its weights: config, scores, hours; and the licences of what it started from."""
  facts = {'licence': licence or info.get('licence', ''), 'packed_by': f'brainjax {brainjax.__version__}'}
  if (file := run / stage / 'config.json').is_file():
    facts['run'] = config = workdirs.read_json(file)
    made_here = {f'{{workdir}}/{name}/weights' for name in config}
    started = {
      f'{name}.{field}': value
      for name, section in config.items()
      for field, value in (section.items() if isinstance(section, dict) else ())
      if field.endswith('init_from') and isinstance(value, str) and value and value not in made_here
    }
    facts['origins'] = {field: _licence_of(source) for field, source in started.items()}
  if stage == SAMPLED and (run / SCORES_FILE).is_file():
    facts['scores'] = read_scores(run)
  if hours := {name: round(s / 3600, 3) for name, s in workdirs.finished(run).items() if s is not None}:
    facts['hours'] = hours
  return json.loads(json.dumps(facts).replace(str(Path.home()), '~'))  # a home folder may hold the user's name


def _licence_of(source: str) -> str:
  """What weights that a run started from say about their licence."""
  if source == RANDOM:
    return 'random weights'
  try:
    info = checkpoints.read_info(source)
  except UserError:
    return f'{source} (no longer there)'
  return f'{source}: {info.get("licence") or "licence not recorded"}' + (
    f', from {info["origin"]}' if info.get('origin') else ''
  )


def card(name: str, info: Mapping[str, Any], num_values: int, folder: Path) -> str:
  """The model card, in the form that the hub shows: facts at its top, then Markdown.

  Args:
    name: of the model.
    info: of the packed weights.
    num_values: parameters.
    folder: where the pictures lie.
  """
  stage = info.get('kind', 'unknown')
  licence = info['licence'] or 'not stated'
  known = licence.lower() in HUB_LICENCES
  top = ['---', f'license: {licence.lower()}' if known else f'license: other\nlicense_name: {json.dumps(licence)}']
  top.append('library_name: brainjax')
  top += ['tags: [fmri, neuroscience, brain-decoding, jax]', '---', '', f'# {name}', '']
  use = (
    f"from brainjax.reconstruct import Reconstructor\n\nmodel = Reconstructor.from_pretrained('{name}')  # or hf://org/name\n"
    "pictures = model.from_betas('session.nii.gz', mask='V1.nii.gz')  # uint8, trials x samples x height x width x 3"
    if set(LatentDiffusion._fields) <= set(info.get('settings', {}))
    else f"from brainjax.encode import FmriEncoder\n\ntokens, pooled = FmriEncoder.from_pretrained('{name}')(betas)"
  )
  about = (
    f'Weights of stage {stage} of brainjax, an implementation in JAX of [Contrast, Attend and Diffuse]({PAPER}): fMRI '
    f'responses to pictures of what was seen. {num_values:,} parameters.'
  )
  parts = [about, f'```python\n{use}\n```']
  if (folder / 'pictures.png').is_file():
    parts.append('![Seen pictures and reconstructions](pictures.png)')
  parts += [_data(info), _scores(info.get('scores')), _limits(info), _making(info), _licences(info)]
  parts.append(f'## Citation\n\nSun et al., Contrast, Attend and Diffuse, NeurIPS 2023: {PAPER}')
  return '\n'.join(top) + '\n\n'.join(part for part in parts if part) + '\n'


def _data(info: Mapping[str, Any]) -> str:
  rows = [
    f'| {t["data_set"]} | {t["subject"]} | {t["roi"]} | {t["num_stored_voxels"]} | {_zscore(t)} |'
    for t in info.get('input', [])
  ]
  head = '## Data\n\nThe weights read responses of these subjects alone, in the unit of their training data.\n\n'
  table = '| data set | subject | ROI | stored voxels | z-score |\n|---|---|---|---|---|\n'
  return head + table + '\n'.join(rows) if rows else '## Data\n\nThe weights do not say what they were trained on.'


def _zscore(transform: Mapping[str, Any]) -> str:
  if transform.get('by_session'):
    return 'each voxel, within its session'
  return 'each voxel' if isinstance(transform['mean'], str) else 'all voxels together'


def _scores(scores: Mapping[str, Any] | None) -> str:
  if not scores:
    return '## Scores\n\nNone were computed.'
  lines = [
    f'## Scores\n\n{scores["num_items"]} test items, {scores["num_samples"]} samples each. Mean over samples, 95 % interval '
    'over stimuli, and the same score with fMRI shuffled between stimuli.\n',
    '| score | value | 95 % interval | chance | fMRI shuffled | p |\n|---|---|---|---|---|---|',
  ]
  least = 1 / scores['protocol']['num_shuffles']
  for name, entry in scores['scores'].items():
    mean = entry['mean_of_samples']
    low, high = mean['interval']
    null = mean['null']
    chance = '' if entry.get('chance') is None else f'{entry["chance"]:.3g}'
    p = f'< {least:.2g}' if null['p_value'] < least else f'{null["p_value"]:.3g}'  # below, only the bound is known
    lines.append(
      f'| {name} | {mean["value"]:.3f} | {low:.3f} to {high:.3f} | {chance} | {null["interval"][0]:.3f} to '
      f'{null["interval"][1]:.3f} | {p} |'
    )
  protocol = '\n'.join(f'* {name}: {text}' for name, text in scores.get('protocol', {}).items())
  return lines[0] + '\n' + '\n'.join(lines[1:]) + f'\n\nProtocol:\n\n{protocol}'


def _limits(info: Mapping[str, Any]) -> str:
  run = info.get('run')
  trained_on = {transform['data_set'] for transform in info.get('input', ())} or {''}
  simulated = run and any(registry.is_simulated(run, name) for name in trained_on)
  kind = '* **The data were simulated.** Nothing here says how well the model works on a brain.\n' if simulated else ''
  return (
    f'## Limits\n\n{kind}* It decodes the subjects above, from the voxels above, and nobody else.\n'
    '* A picture always looks like something. Only scores on held-out stimuli tell whether it has to do with what was seen.\n'
    '* It shows what was seen, as far as visual cortex responds to it; not thoughts.'
  )


def _making(info: Mapping[str, Any]) -> str:
  hours = ', '.join(f'{stage} {value:g}' for stage, value in info.get('hours', {}).items())
  return f'## Cost\n\nHours of each stage: {hours or "not recorded"}. Energy and carbon were not measured.'


def _licences(info: Mapping[str, Any]) -> str:
  origins = '\n'.join(f'* {field}: {text}' for field, text in info.get('origins', {}).items())
  return f'## Licence\n\n{info["licence"] or "Not stated."}' + (f'\n\nStarted from:\n\n{origins}' if origins else '')


@command_line
def main(argv: Sequence[str] | None = None) -> None:
  """Packs, and pushes if asked.

  Raises:
    UserError: as `pack` and `hub.push`.
  """
  parser = ArgumentParser(prog='brainjax pack', description=__doc__.splitlines()[0])
  parser.add_argument('run', type=Path, help='workdir of a run, or a folder of weights')
  parser.add_argument('--out', type=Path, required=True, help='new folder')
  parser.add_argument(
    '--stage', default=SAMPLED, help=f'whose weights, such as attend or contrast (default: {SAMPLED})'
  )
  parser.add_argument('--licence', default='', help='of these weights, such as CC-BY-4.0; the card states it')
  parser.add_argument('--push', help='also upload the folder to hf://ORGANISATION/NAME')
  args = parser.parse_args(argv)
  if args.push:
    hub.parse(args.push)
  pack(args.run, args.out, args.stage, args.licence)
  print(f'wrote {args.out}; read and complete its model card {args.out / CARD}')
  if args.push:
    print(f'uploaded to {hub.push(args.out, args.push)}')


if __name__ == '__main__':
  sys.exit(main())
