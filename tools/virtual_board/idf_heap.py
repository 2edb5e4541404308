"""The IDF's heaps, as the host says that they are: a virtual board has none.

In a module of its own, which is gone when it has answered: each name in esp32.py stays.
"""

import json
import os


def info(capabilities):
    """[(total, free, largest, least)] of the heaps with these capabilities."""
    heaps = json.loads(os.getenv("VBOARD")).get("idf_heaps", {})
    return [tuple(heap) for heap in heaps.get(str(capabilities), ())]
