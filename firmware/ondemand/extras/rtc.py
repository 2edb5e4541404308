"""device.rtc: bytes that outlast a deep sleep, and every restart, but not a loss of power."""


def make(device):
    from firmware.ondemand.rtc import Record

    device.rtc = Record(device._agent.held[1:]).data
    return device.rtc
