"""Power-on of the virtual board: `micropython -X heapsize=77wK start.py`, settings in $VBOARD.

This file is `__main__`, as boot.py and main.py are on the chip; they find none of its names.
"""

import power_on
import scripts

power_on.run()
scripts.run(globals())
