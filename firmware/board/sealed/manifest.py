"""What a sealed build freezes: stage 1 and what it stands on.

MicroPython's stock manifest is not included: it brings webrepl, an inisetup that formats `vfs`, and
upip's heirs. What an application needs comes with its slot image.
"""

_PROJECT = "$(BOARD_DIR)/../../.."

include("$(MPY_DIR)/extmod/asyncio")
module("_boot.py", base_path="$(BOARD_DIR)")
module("boot.py", base_path=_PROJECT)
module("main.py", base_path=_PROJECT)
package("romfs", base_path=_PROJECT + "/lib")
package("trust", base_path=_PROJECT + "/lib")
