"""What the soak run concludes from its samples."""

import numpy as np

from benchmarks import soak


def test_growth_and_speed_by_hand():
  # 41 looks, every 10 steps. Ten looks, a tenth, before the last the steps take twice as long; memory grows by 1 MB a look.
  seconds = np.cumsum([9.0] + [0.5] * 30 + [1.0] * 10)
  samples = [
    soak.Sample(10 * i, float(seconds[i]), 2 * float(seconds[i]), (100 + i) * 10**6, 11 + (i > 36)) for i in range(41)
  ]
  found = soak.compare(samples)
  assert found['steps_per_second_first_tenth'] == 20 and found['steps_per_second_last_tenth'] == 10
  assert found['slower'] == 0.5 and found['more_open_files'] == 1
  assert found['steps_per_second_of_tenths'] == [20] * 7 + [12, 10, 10]
  assert (found['cpu_ms_per_step_first_tenth'], found['cpu_ms_per_step_last_tenth']) == (100, 200)
  # The second tenth: looks 4 to 7; the last: 37 to 40.
  assert found['memory_growth'] == round(138.5 / 105.5 - 1, 4)
