"""esp_ota_ops.c of the IDF, for the Partition shim; imported for one call, and dropped after it.

Every function takes the chip and the partition table's entries (esp32.py) first.
"""

import idf
from micropython import const

_APP = const(0)
_DATA = const(1)
_SUBTYPE_FACTORY = const(0)
_SUBTYPE_OTADATA = const(0)
_SUBTYPE_OTA_0 = const(0x10)
_SUBTYPE_OTA_MAX = const(0x20)
_SECTOR = const(4096)


def _check(code, name):
    raise OSError(-code, name)


def _find(entries, kind, subtype):
    for entry in entries():
        if entry[:2] == (kind, subtype):
            return entry


def _count_slots(entries):
    """esp_ota_get_app_partition_count: it stops at the first gap."""
    count = 0
    while _find(entries, _APP, _SUBTYPE_OTA_0 + count):
        count += 1
    return count


def _load(chip, entries):
    """The address of otadata and its two records; OSError if there is no such partition."""
    entry = _find(entries, _DATA, _SUBTYPE_OTADATA)
    if not entry:
        _check(0x105, "ESP_ERR_NOT_FOUND")
    records = []
    data = bytearray(idf.RECORD_LEN)
    for sector in range(2):
        chip.read(entry[2] + sector * _SECTOR, data)
        records.append(idf.parse_record(data))
    return entry[2], records


def _save(chip, otadata, index, record):
    chip.erase(otadata + index * _SECTOR)
    chip.program(otadata + index * _SECTOR, idf.pack_record(record))


def boot_partition(chip, entries):
    """esp_ota_get_boot_partition: the entry that the next reset will boot."""
    _, records = _load(chip, entries)
    active = idf.active_record(records)
    slots = _count_slots(entries)
    if active >= 0 and slots:
        slot = idf.slot_of(records[active].sequence, slots)
        return _find(entries, _APP, _SUBTYPE_OTA_0 + slot)
    return _find(entries, _APP, _SUBTYPE_FACTORY) or _find(entries, _APP, _SUBTYPE_OTA_0)


def next_update(chip, entries, start):
    """esp_ota_get_next_update_partition: the OTA slot after `start`, or the first one."""
    slots = [_find(entries, _APP, subtype) for subtype in range(_SUBTYPE_OTA_0, _SUBTYPE_OTA_MAX)]
    slots = [slot for slot in slots if slot]
    if start in slots:
        return slots[(slots.index(start) + 1) % len(slots)]
    return slots[0] if slots else None


def set_boot(chip, entries, entry):
    """esp_ota_set_boot_partition: check the image, then write the record that chooses it."""
    kind, subtype, address, size = entry[:4]
    try:
        idf.check_app_image(chip.read, address, size)
    except idf.ImageError:
        _check(0x1503, "ESP_ERR_OTA_VALIDATE_FAILED")
    if kind != _APP:
        _check(0x102, "ESP_ERR_INVALID_ARG")
    otadata, records = _load(chip, entries)
    if subtype == _SUBTYPE_FACTORY:
        for sector in range(2):
            chip.erase(otadata + sector * _SECTOR)
        return
    slot = subtype - _SUBTYPE_OTA_0
    slots = _count_slots(entries)
    if not 0 <= slot < slots:
        _check(0x102, "ESP_ERR_INVALID_ARG")
    active = idf.active_record(records)
    index, sequence = 0, slot + 1
    if active >= 0:
        sequence = idf.next_sequence(records[active].sequence, slot, slots)
        # The slot that boots already keeps its record and only becomes new again.
        index = active if sequence == records[active].sequence else 1 - active
    _save(chip, otadata, index, idf.new_record(sequence, records[index].label, idf.NEW))


def mark_valid(chip, entries):
    """esp_ota_mark_app_valid_cancel_rollback."""
    otadata, records = _load(chip, entries)
    active = idf.active_record(records)
    if active < 0 or not _count_slots(entries):
        _check(-1, "ESP_FAIL")
    if records[active].state != idf.VALID:
        _save(chip, otadata, active, idf.with_state(records[active], idf.VALID))
