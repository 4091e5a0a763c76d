"""Compares samplers with fewer steps with PLMS at 250 steps, on a finished demo: time and scores.

python -m benchmarks.sampler_quality --run=runs/demo [--out=FILE.json]

All samplers start from the same noise. Prints a Markdown table.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from brainjax import evaluate
from brainjax.evaluation.images import Images
from brainjax.evaluation.networks import classifiers
from brainjax.reconstruct import Reconstructor
from brainjax.stages import data as stage_data
from configs import demo

SAMPLERS = (('plms', 250), ('plms', 50), ('plms', 25), ('dpm', 50), ('dpm', 25), ('dpm', 20), ('dpm', 10), ('ddim', 50))
SCORES = ('class_50way_top1', 'pairwise_pcc', 'pairwise_ssim')


def main() -> None:
  """Samples with each sampler, and prints its scores."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--run', type=Path, required=True, help='workdir of the demo')
  parser.add_argument('--samples', type=int, default=5)
  parser.add_argument('--out', type=Path)
  args = parser.parse_args()
  config = demo.get_config()
  for field in ('hcp', 'god', 'prepared'):
    config.data[field] = config.data[field].format(workdir=args.run)
  test = stage_data.test(config)
  classifier = classifiers.load(config.evaluate.classifier)
  model = Reconstructor(args.run / 'diffuse' / 'weights')
  stimuli, stimulus = test.pictures[test.picture_row], test.columns['stimulus']
  results, reference = {}, None
  print(
    '| sampler | steps | seconds | distance to PLMS 250 (root mean square, of 255) | 50-way top-1 | pairwise, PCC | pairwise, SSIM |'
  )
  print('|---|---|---|---|---|---|---|', flush=True)
  for sampler, steps in SAMPLERS:
    options = dict(num_samples=args.samples, num_steps=steps, sampler=sampler, normalised=True)
    model(test.columns['fmri'][:8], **options)  # compiles for this batch of 40
    start = time.perf_counter()
    samples = model(test.columns['fmri'], **options)
    seconds = time.perf_counter() - start
    reference = samples if reference is None else reference
    distance = float(np.sqrt(np.square(samples.astype(float) - reference).mean()))
    images = Images(stimuli, samples, stimulus, test.columns['class_index'])
    with tempfile.TemporaryDirectory() as folder:
      scores = evaluate.evaluate(
        images, classifier.probabilities, classifier.name, num_ways=(2, 50), num_bootstrap=500, num_shuffles=20,
        out=Path(folder), perceptual=False,
      )['scores']  # fmt: skip
    cells = []
    for name in SCORES:
      score = scores[name]['mean_of_samples']
      cells.append(f'{score["value"]:.3f} ({score["interval"][0]:.3f} to {score["interval"][1]:.3f})')
    results[f'{sampler}-{steps}'] = {'seconds': seconds, 'distance': distance, 'scores': cells}
    print('| ' + ' | '.join([sampler, str(steps), f'{seconds:.1f}', f'{distance:.2f}', *cells]) + ' |', flush=True)
  if args.out:
    args.out.write_text(json.dumps(results, indent=1))


if __name__ == '__main__':
  main()
