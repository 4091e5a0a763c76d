"""Your own data: betas (.npy, NIfTI), events and pictures -> rows; and the worked example of docs/your_data.md."""

import re
import shlex
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainjax import prepare
from brainjax.datasets import neuroimaging, own, paired
from brainjax.datasets.masks import WHOLE, Mask
from brainjax.errors import UserError
from tests.datasets import own_files

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'your_data.md'


@pytest.fixture
def study(tmp_path):
  return own_files.write(tmp_path / 'raw')


def run(study, out, *more):
  files = [f'--betas={study.betas}', f'--events={study.events}', f'--images={study.images}', f'--out={out}']
  return prepare.main(['own', *files, *more])


def test_the_documented_example(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  blocks = re.findall(r'```(python|bash)\n(.*?)```', DOCUMENT.read_text(), re.DOTALL)
  assert [kind for kind, _ in blocks] == ['python', 'python', 'bash', 'python']
  nibabel = pytest.importorskip('nibabel')
  rng = np.random.default_rng(0)
  mask, runs = rng.random((2, 3, 4)) < 0.4, [rng.normal(size=(2, 3, 4, count)) for count in (2, 3, 5)]
  nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), np.eye(4)), 'V1.nii.gz')
  for number, run in enumerate(runs, start=1):
    nibabel.save(nibabel.Nifti1Image(run, np.eye(4)), f'run{number}.nii.gz')
    Path(f'run{number}_events.tsv').write_text('image\tsplit\n' + run.shape[3] * 'a.png\ttrain\n')
  exec(compile(blocks[0][1], str(DOCUMENT), 'exec'), {})  # joins runs
  np.testing.assert_allclose(np.load('betas.npy'), np.concatenate([run[mask].T for run in runs]), rtol=1e-6)
  lines = Path('events.tsv').read_text().splitlines()
  assert [len(lines), lines[0], lines[3], lines[10]] == [
    11,
    *('image\tsplit\tsession', 'a.png\ttrain\trun2', 'a.png\ttrain\trun3'),
  ]
  for kind, text in blocks[1:]:
    if kind == 'python':
      exec(compile(text, str(DOCUMENT), 'exec'), {})
      continue
    for line in text.splitlines():
      words = shlex.split(line)
      assert words[:2] == ['brainjax', 'prepare'] and prepare.main(words[2:]) == 0
  assert (tmp_path / 'prepared' / 'check_own.png').is_file()


def test_rows_follow_the_table(study, tmp_path):
  assert run(study, tmp_path / 'out', f'--mask={study.masks["V1"]},{study.masks["V2"]}') == 0
  train, test, trials = (
    own.load(tmp_path / 'out', ['sub-01'], 'V2', split) for split in ('train', 'test', 'test_trials')
  )
  mean, std = train.info['transforms']['sub-01'].mean, train.info['transforms']['sub-01'].std
  voxels = [6, 7, 8, 10]
  rows = study.table['split'] == 'train'
  np.testing.assert_allclose(train.columns['fmri'][:, :4] * std + mean, study.fmri[rows][:, voxels], atol=1e-5)
  np.testing.assert_array_equal(train.columns['fmri'][:, 4:8], train.columns['fmri'][:, :4])  # wrapped to 16
  assert [train.info['names'][i] for i in train.columns['stimulus'].tolist()] == study.table['image'][rows].tolist()
  for row, number in enumerate(test.columns['stimulus'].tolist()):
    shown = study.table['image'] == test.info['names'][number]
    assert shown.sum() == 4
    np.testing.assert_allclose(
      test.columns['fmri'][row, :4] * std + mean, study.fmri[shown][:, voxels].mean(0), atol=1e-5
    )
  assert len(trials) == 12 and set(test.columns['stimulus'].tolist()) == {7, 8, 9}
  picture = np.asarray(Image.open(study.images / train.info['names'][0]))
  np.testing.assert_array_equal(train.pictures[0], picture[:, 2:-2])
  options = dict(num_val_stimuli=3)
  assert len(own.load(tmp_path / 'out', ['sub-01'], split='val', **options)) == 3


def test_mean_test_rows_are_scaled_by_their_number_of_trials(study, tmp_path):
  events = study.events.read_text().splitlines()  # two training pictures become one, shown twice
  first, second = np.flatnonzero(study.table['split'] == 'train')[:2]
  events[1 + second] = events[1 + second].replace(study.table['image'][second], study.table['image'][first])
  study.events.write_text('\n'.join(events) + '\n')
  assert run(study, tmp_path / 'out') == 0
  load = lambda split, scale: own.load(tmp_path / 'out', ['sub-01'], WHOLE, split, test_scale=scale)
  plain, scaled = load('test', 'train'), load('test', 'repetitions')
  share = scaled.info['transforms']['sub-01'].explainable_variance
  assert 0 < share < 1
  ratio = plain.columns['fmri'] / scaled.columns['fmri']
  np.testing.assert_allclose(ratio, np.sqrt(share + (1 - share) / own_files.REPETITIONS), rtol=1e-4)
  trials = [load('test_trials', scale).columns['fmri'] for scale in ('train', 'repetitions')]
  np.testing.assert_allclose(*trials, rtol=1e-6)


def test_nifti_equals_npy(study, tmp_path):
  pytest.importorskip('nibabel')
  volumes = own_files.as_nifti(study)
  run(study, tmp_path / 'out', f'--mask={study.masks["V1"]},{study.masks["V2"]}')
  files = [f'--betas={volumes["betas"]}', f'--mask={volumes["V1"]},{volumes["V2"]}', '--subject=nifti']
  assert run(study, tmp_path / 'out', *files) == 0
  for roi in ('V1', 'V2', 'VC', 'V1+V2'):
    both = [own.load(tmp_path / 'out', [name], roi, 'test') for name in ('sub-01', 'nifti')]
    np.testing.assert_allclose(both[0].columns['fmri'], both[1].columns['fmri'], atol=1e-5)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_nifti_that_is_not_finite(study, tmp_path, capsys, value):
  nibabel = pytest.importorskip('nibabel')
  study.fmri[4, 7] = study.fmri[9, 3] = study.fmri[2, 11] = value  # the last is in no mask
  volumes = own_files.as_nifti(study)
  files = [f'--betas={volumes["betas"]}', f'--mask={volumes["V1"]},{volumes["V2"]}']
  assert run(study, tmp_path / 'out', *files) == 2
  told = capsys.readouterr().err
  assert 'betas.nii.gz inside the masks has 2 NaN or infinite values, the first in row 4, voxel 1, 0, 1' in told
  study.fmri[4, 7] = study.fmri[9, 3] = 0
  own_files.as_nifti(study)
  assert run(study, tmp_path / 'out', *files) == 0
  # Unpacked files count as well, in the size of their values in memory.
  image = nibabel.Nifti1Image(np.zeros((2, 2, 2, 9), np.int16), np.eye(4))
  with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match='at most 1 GiB .* masked betas as .npy'):
    patch.setattr(neuroimaging, 'MAX_VOLUME_BYTES', 4 * 72 - 1)
    nibabel.save(image, tmp_path / 'betas.nii')
    own.prepare(study.source(betas=tmp_path / 'betas.nii', masks=(Mask(volumes['V1']),)), tmp_path / 'out')
  image.header.set_slope_inter(0.5, 1)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match='at most 1 GiB'):
    patch.setattr(neuroimaging, 'MAX_VOLUME_BYTES', 8 * 72 - 1)
    nibabel.save(image, tmp_path / 'betas.nii')
    own.prepare(study.source(betas=tmp_path / 'betas.nii', masks=(Mask(volumes['V1']),)), tmp_path / 'out')


def test_pictures_are_encoded_as_they_are_read():
  living, most = set(), []

  def image(number):
    picture = np.full((64, 64, 3), number, np.uint8)
    living.add(number)
    weakref.finalize(picture, living.discard, number)
    most.append(len(living))
    return picture

  labels = [paired.Label(-1, '', '')] * 100
  made = list(paired.make_examples(np.zeros((100, 3)), np.arange(100), image, labels, range(100)))
  assert max(most) < 50 and len({example['image'] for example in made}) == 100


def test_subjects_together(study, tmp_path):
  run(study, tmp_path / 'out')
  run(study, tmp_path / 'out', '--subject=sub-02')
  both = own.load(tmp_path / 'out', ['sub-02', 'sub-01'], train_proportion={'sub-02': 0.5})
  assert np.bincount(both.columns['subject']).tolist() == [4, 7]


def test_a_picture_that_changed_is_noticed(study, tmp_path, capsys):
  run(study, tmp_path / 'out')
  run(study, tmp_path / 'out')
  assert 'own/sub-01: is prepared already' in capsys.readouterr().out
  Image.new('RGB', (9, 9)).save(study.images / study.table['image'][0])
  run(study, tmp_path / 'out')
  assert f'prepared again, because raw files changed: images/{study.table["image"][0]}' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    (
      'image\tsplit',
      'picture\tsplit',
      r"columns \['onset', 'picture', 'split'\]; expected columns image and split, separated by tabs",
    ),
    ('\ttrain\n', '\tvalidation\n', "has split 'validation'; expected train or test"),
    ('\ttrain\n', '\n', 'has not 3 entries'),
    ('\ttrain\n', '\ttest\n', 'of the splits'),
    ('p00.png', '../p00.png', "picture '../p00.png' is no path below this folder"),
    ('p00.png', '/etc/passwd', 'is no path below'),
    ('p00.png', 'p99.png', "no picture 'p99.png' there"),
    ('p00.png', 'n/a', 'names no picture'),
    ('p07.png', 'p00.png', "picture 'p00.png' is in both splits"),
    ('p07.png', 'p' * 140_000, 'no table of tab-separated columns .field larger'),
  ],
)
def test_wrong_events(study, tmp_path, old, new, message):
  study.events.write_text(study.events.read_text().replace(old, new))
  with pytest.raises(UserError, match=message) as caught:
    own.prepare(study.source(), tmp_path / 'out')
  assert '\n' not in str(caught.value) and not list((tmp_path / 'out').rglob('*.*record*'))


def test_other_faults(study, tmp_path):
  def fails(message, **changes):
    with pytest.raises(UserError, match=message):
      own.prepare(study.source(**changes), tmp_path / 'out')

  nifti = tmp_path / 'V1.nii.gz'
  nifti.write_bytes(b'')
  fails('expected .npy betas with .npy masks', masks=(Mask(nifti),))
  fails('V1.nii.gz: ', betas=nifti, masks=(Mask(nifti),))
  fails('need one or more NIfTI masks', betas=nifti)
  np.save(tmp_path / 'V1.npy', np.ones(7, bool))
  fails(r'V1.npy: shape \(7,\); expected \(12,\), one value', masks=(Mask(tmp_path / 'V1.npy'),))
  fails("mask 'V1': expected different names", masks=(Mask(tmp_path / 'V1.npy'), Mask(study.masks['V1'])))
  (study.images / 'p07.png').write_bytes((study.images / 'p03.png').read_bytes())
  fails("p0[37].png: the same picture as 'p0[37].png', which is in the other split")
  np.save(study.betas, study.fmri[:-1])
  study.images.joinpath('p07.png').write_bytes(b'')
  fails('18 trials, but .*events.tsv has 19 rows')
  np.save(study.betas, study.fmri)
  fails('p07.png cannot be read')
  with pytest.raises(UserError, match="subject '../x': expected a letter"):
    own.prepare(study.source(), tmp_path / 'out', '../x')
  with pytest.raises(UserError, match='not prepared yet; run: brainjax prepare own --betas=FILE'):
    own.load(tmp_path / 'out', ['sub-09'])
  assert not list((tmp_path / 'out').rglob('*.*record*')) and WHOLE == 'VC'
