"""Draws docs/images/architecture.svg from the code: the layers of .importlinter, the rooms of brainjax/, their imports.

  python docs/draw_architecture.py           # draws it (pip install -r requirements-test.txt)
  python docs/draw_architecture.py --check   # fails if rooms or arrows have changed since; line counts may be older

A room is a module or a package directly below brainjax/. An arrow means "imports". Arrows that follow from others are
left out: where A imports B and B imports C, there is none from A to C. So are arrows to the helpers in the layers below
ops, which most rooms import.
"""

import configparser
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import grimp
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / 'docs' / 'images' / 'architecture.svg'
# Inches: width of the picture; width, height and least distance of boxes; distance of layers.
WIDTH, BOX, HEIGHT, GAP, LAYER = 12.0, 1.45, 0.5, 0.2, 0.85


def read_layers() -> list[list[str]]:
  """The rooms of each layer, the top one first."""
  parser = configparser.ConfigParser()
  parser.read(ROOT / '.importlinter')
  lines = parser['importlinter:contract:floors']['layers'].split('\n')
  return [line.replace(':', '|').replace(' ', '').split('|') for line in lines if line]


def read_arrows() -> list[tuple[str, str]]:
  """(room, room that it imports), without pairs that follow from others."""
  graph = grimp.build_graph('brainjax', cache_dir=None)
  imported: dict[str, set[str]] = {}
  for module in graph.modules - {'brainjax'}:
    room = module.split('.')[1]
    below = {f'{name}.'.split('.')[1] for name in graph.find_modules_directly_imported_by(module)}
    imported.setdefault(room, set()).update(below - {room, ''})

  def reached(room: str) -> set[str]:
    return imported[room].union(*map(reached, imported[room]))

  return sorted(
    (room, low)
    for room, lows in imported.items()
    for low in lows
    if not any(low in reached(other) for other in lows - {low})
  )


def count_lines(room: str) -> int:
  """Lines of Python in a module or a package."""
  path = ROOT / 'brainjax' / room
  files = path.rglob('*.py') if path.is_dir() else [path.with_suffix('.py')]
  return sum(len(file.read_text().splitlines()) for file in files)


def facts() -> dict[str, list]:
  """What the picture shows, without line counts."""
  layers = read_layers()
  helpers = {room for rooms in layers[layers.index(['ops']) + 1 :] for room in rooms}
  return {'layers': layers, 'arrows': [list(arrow) for arrow in read_arrows() if arrow[1] not in helpers]}


def place_rooms(layers: list[list[str]], arrows: list[list[str]]) -> dict[str, tuple[float, float]]:
  """Room -> centre of its box: below the rooms that import it where there is space, else spread over the layer."""
  places: dict[str, tuple[float, float]] = {}
  for depth, rooms in enumerate(layers):
    above = {room: [places[high][0] for high, low in arrows if low == room] for room in rooms}
    wanted = {room: sum(xs) / len(xs) if xs else WIDTH / 2 for room, xs in above.items()}
    for number, room in enumerate(sorted(rooms, key=wanted.get)):
      middle, slack = WIDTH * (number + 0.5) / len(rooms), (WIDTH / len(rooms) - BOX - GAP) / 2
      x = min(max(wanted[room], middle - slack), middle + slack) if above[room] else middle
      places[room] = (x, -LAYER * depth)
  return places


def draw(path: Path) -> None:
  """Writes the picture, with its facts in the metadata."""
  shown = facts()
  layers, arrows = shown['layers'], shown['arrows']
  places = place_rooms(layers, arrows)
  plt.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'brainjax', 'font.family': 'DejaVu Sans'})
  height = LAYER * len(layers)
  figure, axes = plt.subplots(figsize=(WIDTH, height))
  axes.set(xlim=(0, WIDTH), ylim=(LAYER / 2 - height, LAYER / 2))
  axes.axis('off')
  figure.subplots_adjust(0, 0, 1, 1)
  colours = plt.get_cmap('tab20').colors
  for depth in range(0, len(layers), 2):
    axes.axhspan(-LAYER * (depth + 0.5), -LAYER * (depth - 0.5), color='#f2f4f7', zorder=0)
  for number, room in enumerate(places):
    x, y = places[room]
    colour = colours[2 * number % 20]
    for _, low in filter(lambda arrow: arrow[0] == room, arrows):
      to = places[low]
      bend = 'arc3,rad=0.03' if to[0] < x else 'arc3,rad=-0.03'  # upwards
      style = {'arrowstyle': '-|>', 'color': colour, 'alpha': 0.8, 'connectionstyle': bend}
      axes.annotate('', (to[0], to[1] + HEIGHT / 2), (x, y - HEIGHT / 2), arrowprops=style, zorder=1)
    corner = (x - BOX / 2, y - HEIGHT / 2)
    box = FancyBboxPatch(corner, BOX, HEIGHT, 'round,pad=0,rounding_size=0.08', fc='white', ec=colour, lw=1.5, zorder=2)
    axes.add_patch(box)
    is_package = (ROOT / 'brainjax' / room).is_dir()
    axes.text(x, y + 0.09, f'{room}/' if is_package else room, ha='center', va='center', fontsize=10, zorder=3)
    axes.text(x, y - 0.13, f'{count_lines(room):,} lines', ha='center', va='center', fontsize=7, color='#555', zorder=3)
  metadata = {'Description': json.dumps(shown), 'Date': None} if path.suffix == '.svg' else None
  figure.savefig(path, metadata=metadata)


def read_facts(path: Path) -> dict[str, list]:
  """The facts in the metadata of a picture that `draw` wrote."""
  element = ET.parse(path).find('.//{http://purl.org/dc/elements/1.1/}description')
  return json.loads(element.text)


def main(arguments: list[str]) -> int:
  """Draws or checks; the exit status."""
  if arguments != ['--check']:
    draw(Path(arguments[0]) if arguments else PICTURE)
    return 0
  if read_facts(PICTURE) == facts():
    return 0
  print(f'{PICTURE.name} shows other rooms or imports than the code has; run: python docs/draw_architecture.py')
  return 1


if __name__ == '__main__':
  raise SystemExit(main(sys.argv[1:]))
