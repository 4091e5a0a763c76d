"""How commands report a user's mistakes."""

import errno

import pytest

from brainjax.errors import ArgumentParser, UserError, command_line


@pytest.mark.parametrize('arguments', [['--out='], ['--out', ''], ['--oout=a'], ['--ou=a'], ['a']])
def test_wrong_arguments_are_one_sentence(arguments):
  parser = ArgumentParser(prog='command')
  parser.add_argument('--out')
  with pytest.raises(UserError, match='^command: .*--help lists the options.$'):
    parser.parse_args(arguments)
  assert parser.parse_args(['--out=a']).out == 'a'


@pytest.mark.parametrize('code', [errno.EEXIST, errno.ENOENT, errno.EACCES, errno.ENOTDIR])
def test_a_place_that_cannot_be_is_one_sentence(capsys, code):
  def main():
    raise OSError(code, 'no', 'a/b')

  assert command_line(main)() == 2
  assert capsys.readouterr().err == 'error: a/b: no; complete files are intact. Choose another path.\n'
