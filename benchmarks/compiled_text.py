"""Reads compiled programs (HLO text): what runs how often, and what the compiler expects it to take."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 's64': 8, 'u64': 8, 'f64': 8}
# Opcodes that move nothing: their results are other arrays, or parts of them.
FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id', 'iota')
COLLECTIVES = ('all-reduce', 'all-gather', 'all-to-all', 'reduce-scatter', 'collective-permute')
CALLS = ('call', 'conditional', 'async-start')


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    result: its shape or shapes, as written.
    operands: names.
    condition: of a loop, the computation that ends it.
    called: computations that it runs.
    cycles: the compiler's estimate, 0 where it has none.
    source: the line of our program, as JAX names it.
    text: the whole line.
  """

  name: str
  opcode: str
  result: str
  operands: tuple[str, ...]
  condition: str
  called: tuple[str, ...]
  cycles: int
  source: str
  text: str


class Program(NamedTuple):
  """Computations by name, and the one that starts."""

  computations: dict[str, list[Instruction]]
  entry: str


_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)(?= [a-z\-]+\()|\S+) ([\w\-]+)\((.*)')
_CALLED = re.compile(r'(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_SHAPE = re.compile(r'\b(pred|[a-z]+\d+)\[([\d,]*)\](?:\{([^}]*)\})?')


def parse(text: str) -> Program:
  """The program of a compiled text.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, list[Instruction]] = {}
  current, entry = None, ''
  for line in text.splitlines():
    if line.startswith('}'):
      current = None
    elif not line.startswith(' ') and (head := _COMPUTATION.match(line)):
      current = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif current is not None and (found := _INSTRUCTION.match(re.sub(r'/\*index=\d+\*/', '', line))):
      current.append(_instruction(*found.groups(), line))
  if not entry:
    raise ValueError('the compiled text has no ENTRY computation.')
  return Program(computations, entry)


def _instruction(name: str, result: str, opcode: str, rest: str, line: str) -> Instruction:
  def first(pattern: str) -> str:
    found = re.search(pattern, line)
    return found[1] if found else ''

  branches = re.findall(r'[\w.\-]+', first(_BRANCHES.pattern))
  return Instruction(
    name=name,
    opcode=opcode,
    result=result,
    operands=tuple(re.findall(r'%([\w.\-]+)', rest.partition(')')[0])),
    condition=first(r'condition=%?([\w.\-]+)'),
    called=(*_CALLED.findall(line), *branches),
    cycles=int(first(r'"estimated_cycles":"(\d+)"') or 0),
    source=first(r'op_name="([^"]*)"'),
    text=line,
  )


def executed(program: Program) -> Iterator[tuple[Instruction, int]]:
  """Every instruction that runs, with how often it does. Fusions are one; every branch of a condition counts."""

  def walk(name: str, times: int) -> Iterator[tuple[Instruction, int]]:
    for one in program.computations[name]:
      if one.opcode == 'while':
        yield from walk(one.called[0], times * trip_count(program, one))
      elif one.opcode in CALLS:
        yield one, times
        for called in one.called:
          yield from walk(called, times)
      else:
        yield one, times

  return walk(program.entry, 1)


def trip_count(program: Program, loop: Instruction) -> int:
  """How often a loop runs: what the compiler says, or the constant that its condition compares with.

  Raises:
    ValueError: there is neither.
  """
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text):
    return int(known[1])
  bounds = [re.search(r's32\[\]\S* constant\((\d+)\)', one.text) for one in program.computations[loop.condition]]
  counts = [int(bound[1]) for bound in bounds if bound]
  if not counts:
    raise ValueError(f'the condition of loop {loop.name} compares with no constant; its trip count is unknown.')
  return max(counts)


def array_bytes(shapes: str, everywhere: bool = False) -> int:
  """Bytes of the arrays in a result that lie in the chip's main memory (layouts with S(...) lie elsewhere), or of all."""
  total = 0
  for kind, sizes, layout in _SHAPE.findall(shapes):
    if sizes and (everywhere or not re.search(r'S\(\d+\)', layout)):
      total += math.prod(int(size) for size in sizes.split(',')) * ITEM_BYTES.get(kind, 4)
  return total


def moved_bytes(program: Program, results: dict[str, str], one: Instruction) -> int:
  """Bytes that an instruction reads from main memory and writes to it.

  Of an array of which it takes or replaces a slice, only the slice counts; a kernel of ours says itself what it moves.

  Args:
    program: the whole.
    results: name of every instruction -> its shapes.
    one: the instruction.
  """
  if one.opcode in FREE or one.opcode in CALLS or one.opcode.endswith('-done'):
    return 0
  if stated := re.search(r'"bytes_accessed":"(\d+)"', one.text):
    return int(stated[1])
  whole = [array_bytes(results.get(name, '')) for name in one.operands]
  written = array_bytes(one.result)
  if one.opcode.endswith('-start'):  # its result names the operand again
    return max(sum(whole), written)
  if one.opcode == 'fusion':
    parts = [_slices(program, one.called[0], number) for number in range(len(whole))]
    replaced = sum(
      array_bytes(part.result) - array_bytes(results.get(part.operands[1], ''))
      for part in _all_parts(program, one.called[0])
      if part.opcode == 'dynamic-update-slice'
    )
    read = sum(size if part is None else min(size, part) for size, part in zip(whole, parts, strict=True))
    return read + max(written - replaced, 0)
  if one.opcode in ('dynamic-slice', 'slice', 'gather'):
    return 2 * written
  if one.opcode == 'dynamic-update-slice':
    return 2 * whole[1]
  return sum(whole) + written


def _all_parts(program: Program, name: str) -> Iterator[Instruction]:
  """The instructions of a fusion and of those inside it."""
  for part in program.computations[name]:
    yield part
    if part.opcode == 'fusion':
      yield from _all_parts(program, part.called[0])


def _slices(program: Program, name: str, number: int) -> int | None:
  """Bytes that a fusion reads of a parameter of which it takes only slices; None if it reads all of it."""
  parts = program.computations[name]
  parameter = next(part.name for part in parts if part.opcode == 'parameter' and f'parameter({number})' in part.text)
  total = 0
  for part in parts:
    for place, operand in enumerate(part.operands):
      if operand != parameter:
        continue
      if part.opcode in ('dynamic-slice', 'slice', 'gather') and place == 0:
        total += array_bytes(part.result)
      elif part.opcode == 'fusion':
        inner = _slices(program, part.called[0], place)
        if inner is None:
          return None
        total += inner
      elif part.opcode != 'dynamic-update-slice' or place:
        return None
  return total
