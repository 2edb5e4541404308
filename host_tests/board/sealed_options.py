"""What the definition of the sealed build sets, and what its OPTIONS.md says of it."""

import re

from host_tests.tool_helpers import REPO

BOARD = REPO / "firmware/board/sealed"
SIZES = (4, 8, 16)


def used_options() -> set[str]:
    """Every option that the board definition sets."""
    cmake = (BOARD / "mpconfigboard.cmake").read_text()
    text = "\n".join(path.read_text() for path in BOARD.glob("sdkconfig.*")) + "\n"
    text += "\n".join(cmake.replace("${SIGNET_FLASH}MB=", f"{size}MB=") for size in SIZES)
    header = (BOARD / "mpconfigboard.h").read_text()
    return {
        *re.findall(r"^(CONFIG_\w+)=", text, re.M),
        *re.findall(r"^#define (MICROPY_\w+)", header, re.M),
        *re.findall(r"^(?:set\(|list\(APPEND )(MICROPY_\w+)", cmake, re.M),
        *re.findall(r"^list\(APPEND MICROPY_DEF_BOARD (MICROPY_\w+)=", cmake, re.M),
    }


def documented_options() -> dict[str, str]:
    rows = re.findall(
        r"^\| `(\w+)` \| `([^`]+)` \| .+ \|$", (BOARD / "OPTIONS.md").read_text(), re.M
    )
    assert len(dict(rows)) == len(rows), "an option has two rows"
    return dict(rows)
