"""Names of scores for a reader, and which scores stand at the top."""


def label(name: str) -> str:
  """A score's name for a reader: class_50way_top1 -> 50-way top-1 class."""
  parts = name.split('_')
  if parts[0] == 'class':
    return f'{parts[1].replace("way", "-way")} {parts[2].replace("top", "top-")} class'
  if parts[0] == 'pairwise':
    return f'pairwise {parts[1].upper()}'
  if parts[0] == 'identification':
    return f'{parts[1].replace("way", "-way")} {parts[2].upper()}'
  return name.replace('_', ' ').upper()


def headline(scores: dict[str, dict]) -> list[str]:
  """The scores that stand at the top: 50-way top-1 (or the largest there is), pairwise PCC, SSIM."""
  ways = [name for name in scores if name.startswith('class_') and name.endswith('_top1')]
  largest = sorted(ways, key=lambda name: int(name.split('_')[1].removesuffix('way')))[-1:]
  first = ['class_50way_top1'] if 'class_50way_top1' in scores else largest
  return [*first, *(name for name in ('pairwise_pcc', 'ssim') if name in scores)] or list(scores)[:3]
