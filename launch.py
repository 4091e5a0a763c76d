"""The command `brainjax train` of this clone: python launch.py --config=configs/X.py [--workdir=DIR] [...]"""

import sys

from brainjax.launch import main

if __name__ == '__main__':
  sys.exit(main())
