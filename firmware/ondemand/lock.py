"""How far the chip is locked: the eFuses that close it for good, read through their registers.

Registers: ESP-IDF, `soc/efuse_reg.h` of each chip.  Bits: its `esp_efuse_table.csv`.  Flash
encryption counts as on in release mode only: `esp_get_flash_encryption_mode` in `flash_encrypt.c`.
"""

import sys


def read():
    """What of this board is not locked: see `check`."""
    import machine

    chip = "ESP32"  # as the virtual board is
    if sys.platform == "esp32":
        chip = sys.implementation._machine.split()[-1]  # "… with ESP32S3"
    return check(machine.mem32, chip)


def check(mem32, chip):
    """Names of what is not locked, [] if all is; None for a chip whose registers are not known.

    mem32: address -> 32 bits, as `machine.mem32`.  chip: as in `sys.implementation._machine`.
    """
    # Chip; address of word 0 of block 0; bit of it that protects the count of flash encryption; the
    # word and the bits of that count; then what is locked once all these bits of a word are 1.
    chips = (
        (
            "ESP32", 0x3FF5A000, 1 << 2, 0, 0x7F << 20,  # FLASH_CRYPT_CNT
            (
                ("secure_boot", 6, 1 << 5),  # ABS_DONE_1: version 2
                ("flash_encryption", 6, 7 << 7),  # DISABLE_DL_ENCRYPT, _DECRYPT, _CACHE
                ("jtag", 6, 1 << 6),  # JTAG_DISABLE
                ("download", 0, 1 << 27),  # UART_DOWNLOAD_DIS
            ),
        ),
        (
            "ESP32S3", 0x6000702C, 1 << 4, 2, 7 << 18,  # SPI_BOOT_CRYPT_CNT
            (
                ("secure_boot", 3, 1 << 20),  # SECURE_BOOT_EN
                # DIS_DOWNLOAD_MANUAL_ENCRYPT, DIS_DOWNLOAD_DCACHE, _ICACHE
                ("flash_encryption", 1, 1 << 20 | 3 << 10),
                ("jtag", 1, 1 << 19),  # DIS_PAD_JTAG
                ("jtag", 3, 1 << 22),  # DIS_USB_JTAG
                ("download", 4, 1),  # DIS_DOWNLOAD_MODE
            ),
        ),
        (
            "ESP32C3", 0x6000882C, 1 << 4, 2, 7 << 18,  # SPI_BOOT_CRYPT_CNT
            (
                ("secure_boot", 3, 1 << 20),  # SECURE_BOOT_EN
                # DIS_DOWNLOAD_MANUAL_ENCRYPT, DIS_DOWNLOAD_ICACHE
                ("flash_encryption", 1, 1 << 20 | 1 << 10),
                ("jtag", 1, 1 << 19 | 1 << 9),  # DIS_PAD_JTAG, DIS_USB_JTAG
                ("download", 4, 1),  # DIS_DOWNLOAD_MODE
            ),
        ),
    )  # fmt: skip
    known = [row for row in chips if row[0] == chip.replace("-", "")]
    if not known:
        return None
    _, start, protection, word, mask, wanted = known[0]
    found = []
    count = mem32[start + 4 * word] & mask
    # An odd number of ones is on; with one more it would be off again.
    if not bin(count).count("1") & 1 or (count != mask and not mem32[start] & protection):
        found.append("flash_encryption")
    for name, word, bits in wanted:
        if mem32[start + 4 * word] & bits != bits and name not in found:
            found.append(name)
    return found
