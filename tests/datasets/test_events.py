"""Events tables as programs write them: any encoding, quoting, line ends and delimiter give the same trials."""

import numpy as np
import pytest
from hypothesis import strategies as st

from brainjax.datasets import events, own
from brainjax.errors import UserError
from tests.datasets import own_files
from tests.property_tests import drawn

ROWS = [
  ('bär.png', 'train', 'animal'),
  ('Käse 2.png', 'test', ''),
  ('bär.png', 'train', 'animal'),
  ('ü.png', 'train', 'n/a'),
]


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return tmp_path_factory.mktemp('events') / 'events.tsv'


def write(path, text, encoding='utf-8'):
  path.write_bytes(text.encode(encoding))
  return path


def refused(path, match, text, encoding='utf-8'):
  with pytest.raises(UserError, match=match) as caught:
    events.read_events(write(path, text, encoding))
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)


@drawn(
  encoding=st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'latin-1', 'cp1252']),
  delimiter=st.sampled_from('\t,;'),
  newline=st.sampled_from(['\n', '\r\n', '\r']),
  quote=st.sampled_from(['none', 'all', 'needed']),
  case=st.sampled_from([str.lower, str.upper, str.title]),
  column=st.sampled_from(['image', 'stim_file']),
  trailing=st.integers(0, 2),
  blank=st.sampled_from(['', '\n', '{0}{0}{0}\n', '   \n']),
  space=st.sampled_from(['', ' ']),
  ending=st.booleans(),
)
def check_same_trials(path, encoding, delimiter, newline, quote, case, column, trailing, blank, space, ending):
  name = {'needed': f'Käse{delimiter}2.png'}.get(quote, 'Käse 2.png')
  rows = [('onset', case(column), case('split'), 'category')]
  rows += [(str(i), name if 'K' in image else image, case(split), kind) for i, (image, split, kind) in enumerate(ROWS)]

  def cell(text):
    quoted = quote == 'all' or delimiter in text
    return f'"{text}"' if quoted else text + space

  text = '\n'.join(delimiter.join(map(cell, row)) + trailing * delimiter for row in rows)
  text = (text + '\n' + blank.format(delimiter)) if ending or blank else text
  read = events.read_events(write(path, text.replace('\n', newline), encoding))
  assert read.images == ['bär.png', name, 'bär.png', 'ü.png']
  assert read.splits == ['train', 'test', 'train', 'train'] and read.categories == {'bär.png': 'animal'}
  assert read.pictures('train') == ['bär.png', 'ü.png']


test_same_trials, test_same_trials_slow = check_same_trials


def test_an_old_encoding_is_reported(tmp_path, capsys):
  study = own_files.write(tmp_path / 'raw')
  (study.images / 'p03.png').rename(study.images / 'ü.png')
  text = study.events.read_text().replace('p03.png', 'ü.png')
  for encoding, times in (('latin-1', 1), ('utf-16', 0)):
    write(study.events, text, encoding)
    assert len(own.read_source(study.source())[0]) == len(study.fmri)
    assert capsys.readouterr().out.count('not UTF-8, so it is read as Windows-1252 (Latin-1)') == times


def test_what_is_not_clear(path):
  good = 'image\tsplit\na.png\ttrain\nb.png\ttest\n'
  refused(path, 'not a table of text; expected UTF-8, or UTF-16 with a byte-order mark', good, 'utf-16-le')
  refused(path, 'neither UTF-8 nor Windows-1252', good.replace('a.png', '\x81.png'), 'latin-1')
  refused(path, 'not a table of text', good, 'utf-32')
  refused(path, 'a spreadsheet; save it as tab-separated text', 'PK\x03\x04' + good)
  refused(
    path,
    r"columns \['image split'\]; expected columns image and split, separated by tabs, commas",
    good.replace('\t', ' '),
  )
  refused(
    path,
    "row 2 has image 'b.png' but stim_file 'c.png'; keep one column",
    'image\tstim_file\tsplit\na.png\ta.png\ttrain\nb.png\tc.png\ttest\n',
  )
  refused(path, 'two columns are called image', good.replace('image', 'image\tIMAGE').replace('.png', '.png\tx'))
  refused(path, 'row 1 has not 2 entries, as the first line has, but 3', good.replace('a.png', 'a\tb.png'))
  refused(path, 'row 2 has not 2 entries, as the first line has, but 1', good.replace('\ttest', ''))
  refused(path, 'closed quotation marks', good.replace('a.png', '"a.png'))
  refused(path, 'an entry of several lines', good.replace('a.png', '"a.png').replace('b.png', 'b.png"'))
  refused(path, "row 1 has split 'training'; expected train or test", good.replace('\ttrain', '\ttraining'))
  refused(path, 'expected columns image and split', '')
  refused(path, 'of the splits', 'image\tsplit\n')
  assert events.read_events(write(path, good.replace('a.png', '5" disk.png'))).images[0] == '5" disk.png'


def test_one_picture_under_several_spellings(path):
  rows = ['./a/u\u0308.png\ttrain', 'a//\u00fc.png\ttrain', 'a/./\u00fc.png\ttest']
  refused(path, "picture 'a/ü.png' is in both splits .row 1", 'image\tsplit\n' + '\n'.join(rows))
  read = events.read_events(write(path, 'image\tsplit\n' + '\n'.join([*rows[:2], 'b.png\ttest'])))
  assert read.pictures('train') == ['a/\u00fc.png']


@pytest.mark.filterwarnings('ignore')
def test_every_damaged_byte_is_a_sentence(path):
  data = 'image\tsplit\tcategory\nä.png\ttrain\tx\nb.png\ttest\t"y"\n'.encode()
  rng = np.random.default_rng(0)
  for place in range(len(data)):
    for value in rng.integers(0, 256, 8).tolist():
      path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
      try:
        assert len(events.read_events(path).images) <= 2
      except UserError as error:
        assert '\n' not in str(error)
