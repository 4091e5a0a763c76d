"""Seen and unseen categories, simulated attributes, and the noise ceiling, on rows made by hand."""

import numpy as np
import pytest

from brainjax.datasets import bold5000, own, paired
from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation import test_set
from brainjax.simulator import stimuli
from configs import tiny
from tests.datasets import own_files
from tests.datasets.test_bold5000 import write as write_bold5000


def rows(stimulus, ids, names, class_index=None):
  stimulus = np.array(stimulus)
  columns = {'fmri': np.zeros((len(stimulus), 3), np.float32), 'stimulus': stimulus}
  columns['class_index'] = np.zeros(len(stimulus), int) if class_index is None else np.array(class_index)
  info = {
    'wordnet_ids': dict(zip(stimulus.tolist(), ids, strict=True)),
    'names': dict(zip(stimulus.tolist(), names, strict=True)),
    'class_indices': dict(zip(stimulus.tolist(), columns['class_index'].tolist(), strict=True)),
  }
  return ArrayDataset(columns, info=info)


def config(simulated=False):
  made = tiny.get_config()
  made.simulate.enabled = simulated
  return made


def test_categories_are_matched_by_wordnet_id():
  train = rows([0, 1, 2], ['n1', 'n2', 'n2'], ['cat', 'dog', 'dog'])
  test = rows([10, 11, 12], ['n2', 'n3', 'n4'], ['hound', 'cat', 'owl'])  # a name may mean something else
  parts = test_set.split_by_category(train, test)
  assert parts[test_set.SEEN].tolist() == [True, False, False]
  assert parts[test_set.UNSEEN].tolist() == [False, True, True] and len(parts) == 2
  facts = test_set.compare_categories(config(), train, test)
  assert facts['matched_by'] == 'WordNet id' and facts['test_categories_in_training'] == ['hound']
  assert (facts['num_test_categories'], facts['num_training_categories']) == (3, 2)
  assert 'simulated_attributes' not in facts


def test_without_ids_names_count_and_without_names_nothing_is_claimed():
  train = rows([0, 1], ['', ''], ['cat', 'dog'])
  test = rows([10, 11, 12], ['', '', ''], ['cat', 'owl', ''])
  parts = test_set.split_by_category(train, test)
  assert [parts[name].tolist() for name in (test_set.SEEN, test_set.UNSEEN, test_set.UNKNOWN)] == [
    [True, False, False],
    [False, True, False],
    [False, False, True],
  ]
  assert test_set.compare_categories(config(), train, test)['matched_by'] == 'category name'


def test_own_pictures_have_a_category_only_where_the_table_says_so(tmp_path):
  def parts(name, category):
    study = own_files.write(tmp_path / name)
    lines = study.events.read_text().splitlines()
    pictures = [line.split('\t')[1] for line in lines]
    written = [f'{line}\t{category(picture)}' for line, picture in zip(lines[1:], pictures[1:], strict=True)]
    study.events.write_text('\n'.join([f'{lines[0]}\tcategory', *written]) + '\n')
    own.prepare(study.source(), tmp_path / 'out', name)
    train, test = (own.load(tmp_path / 'out', [name], split=split, image_size=0) for split in ('train', 'test'))
    assert set(test.info['names'].values()) <= set(pictures) | {'cat', 'owl'}
    return test_set.split_by_category(train, test), test_set.compare_categories(config(), train, test)

  found, facts = parts('without', lambda picture: '')
  assert found[test_set.UNKNOWN].all() and not found[test_set.SEEN].any() and not found[test_set.UNSEEN].any()
  assert facts['num_test_categories'] == 0 and facts['num_test_items_without_category'] == 3
  # Training pictures are p00 to p06, test pictures p07 to p09.
  table = {'p00.png': 'cat', 'p07.png': 'cat', 'p08.png': 'owl', 'p09.png': 'n/a'}
  found, facts = parts('with', lambda picture: table.get(picture, ''))
  assert [found[name].tolist() for name in (test_set.SEEN, test_set.UNSEEN, test_set.UNKNOWN)] == [
    [True, False, False],
    [False, True, False],
    [False, False, True],
  ]
  assert facts['matched_by'] == 'category name' and facts['test_categories_in_training'] == ['cat']


def test_bold5000_knows_the_categories_of_imagenet_pictures(tmp_path):
  folder = write_bold5000(tmp_path / 'raw', as_files=True)
  names = {'im000.jpg': 'n01440764_10.JPEG', 'im001.jpg': 'n01440764_2.JPEG', 'im004.jpg': 'n01443537_3.JPEG'}
  for path in [path for path in folder.rglob('*') if path.name in names]:
    path.rename(path.with_name(names[path.name]))
  for path in folder.rglob('*.txt'):
    text = path.read_text()
    for old, new in names.items():
      text = text.replace(old, new)
    path.write_text(text)
  bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  train, test = (bold5000.load(tmp_path / 'out', ['CSI1'], split=split, image_size=0) for split in ('train', 'test'))
  assert {index for part in (train, test) for index in part.info['class_indices'].values()} == {-1}
  shown = [test.info['names'][number] for number in test.columns['stimulus'].tolist()]
  assert sorted(shown) == ['im007.jpg', 'n01440764_2.JPEG', 'n01443537_3.JPEG']  # the file names stay
  parts = test_set.split_by_category(train, test)
  for part, name in zip((test_set.UNKNOWN, test_set.SEEN, test_set.UNSEEN), sorted(shown), strict=True):
    assert [name for name, inside in zip(shown, parts[part], strict=True) if inside] == [name]
  assert bold5000.label('n01440764_10110.JPEG') == paired.Label(-1, 'n01440764', 'n01440764_10110.JPEG')
  assert bold5000.label('COCO_train2014_000000000036.jpg').wordnet_id == ''


def test_simulated_categories_share_attributes_but_no_combination():
  table = stimuli.categories()
  train = rows(range(150), table.wordnet_ids[:150], table.names[:150], table.train)
  test = rows(range(150, 200), table.wordnet_ids[150:], table.names[150:], table.test)
  facts = test_set.compare_categories(config(simulated=True), train, test)
  assert facts['num_test_categories_in_training'] == 0
  shared = facts['simulated_attributes']['test_categories_by_most_attributes_shared_with_a_training_category']
  counted = {}
  for name in table.names[150:]:
    words = set(name.replace(',', '').split()) - {'on'}
    most = max(len(words & set(other.replace(',', '').split())) for other in table.names[:150])
    counted[str(most)] = counted.get(str(most), 0) + 1
  assert shared == counted and sum(shared.values()) == 50
  assert set(facts['simulated_attributes']['values_in_test_but_not_in_training'].values()) == {0}


def test_noise_ceiling_of_repeated_trials():
  rng = np.random.default_rng(0)
  stimulus = np.tile(np.arange(20), 8)
  signal = rng.normal(size=(20, 400))
  trials = (np.sqrt(0.3) * signal[stimulus] + np.sqrt(0.7) * rng.normal(size=(160, 400))).astype(np.float32)
  made = ArrayDataset({'fmri': trials, 'stimulus': stimulus})
  found = test_set.estimate_noise_ceiling(made, 200, 0)
  # 0.3 of one trial's variance is signal; of a mean over 8: 0.3 / (0.3 + 0.7 / 8).
  assert found['voxels']['median'] == pytest.approx(0.3 / (0.3 + 0.7 / 8), abs=0.05)
  assert found['split_half_identification']['value'] == 1 and found['repetitions'] == [8, 8]
  once = ArrayDataset({'fmri': trials[:20], 'stimulus': stimulus[:20]})
  assert 'more than once' in test_set.estimate_noise_ceiling(once, 200, 0)['missing']
  assert test_set.estimate_noise_ceiling('one trial each', 200, 0) == {'missing': 'one trial each'}


def test_single_trials_of_the_items_with_their_pictures():
  rng = np.random.default_rng(0)
  stimulus = np.repeat([10, 11, 12], [4, 1, 3])
  trials = {
    name: ArrayDataset({'fmri': rng.normal(size=(8, 5)).astype(np.float32), 'stimulus': stimulus}) for name in 'ab'
  }
  columns = {'stimulus': np.array([12, 10, 11, 10]), 'subject': np.array([0, 0, 0, 1]), 'fmri': np.zeros((4, 7))}
  pictures = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
  test = ArrayDataset(columns, pictures, np.array([2, 0, 1, 0]))
  single = test_set.select_trials(trials, test, 2, seed=0)
  assert single.columns['stimulus'].tolist() == [12, 12, 10, 10, 10, 10]  # of 11 there is one trial: the item itself
  assert single.columns['subject'].tolist() == [0, 0, 0, 0, 1, 1] and single.picture_row.tolist() == [2, 2, 0, 0, 0, 0]
  for row, (subject, number) in enumerate(zip('aaaabb', single.columns['stimulus'], strict=True)):
    source = trials[subject].columns['fmri'][stimulus == number]
    assert any(np.array_equal(np.r_[trial, trial[:2]], single.columns['fmri'][row]) for trial in source)
  assert not np.array_equal(single.columns['fmri'][0], single.columns['fmri'][1])
  assert not columns['fmri'].any()  # the items stay as they were
  assert test_set.select_trials(trials, test, 0, seed=0) is None
  # Means of two: one group of the three trials of 12, two of the four of 10.
  means = test_set.select_trials(trials, test, 9, seed=0, averaged=2)
  assert means.columns['stimulus'].tolist() == [12, 10, 10, 10, 10]
  source = trials['a'].columns['fmri'][stimulus == 10]
  np.testing.assert_allclose(means.columns['fmri'][1:3, :5].mean(axis=0), source.mean(axis=0), atol=1e-6)
  pairs = [(source[i] + source[j]) / 2 for i in range(4) for j in range(i)]
  assert any(np.allclose(means.columns['fmri'][1, :5], pair, atol=1e-6) for pair in pairs)
  assert test_set.select_trials(trials | {'b': 'not there'}, test, 1, seed=0) is None
