"""What the application reports, of a sensor that works, fails and comes back."""

import asyncio

import app
import pytest
import sht3x
import simulated


class Device:
    """What the application is given; time passes when it sleeps."""

    def __init__(self):
        self.now_ms = 100
        self.config = {name: form[0] for name, form in app.CONFIG.items()}
        self.sent = []

    def telemetry(self, values):
        self.sent.append(values)

    def event(self, name, **details):
        self.sent.append({"event": name, **details})

    async def sleep(self, seconds):
        self.now_ms += round(seconds * 1000)

    def take(self):
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def bus(device):
    bus = simulated.Bus(lambda: device.now_ms)
    bus.step = 0
    device.now_ms += 2
    return bus


@pytest.fixture
def work(device, bus):
    thermometer = app.Thermometer(sht3x.SHT3x(bus), device)

    def work():
        asyncio.run(thermometer.work())
        return device.take()

    return work


MEASURED = {"temperature_c": 20.63, "humidity_percent": 50.0}


def test_it_sends_what_it_measures(work, bus):
    assert work() == [MEASURED]
    bus.raw = [0, 0]
    assert work()[0] == {"temperature_c": -45.0, "humidity_percent": 0.0}


def test_a_disturbed_bus_is_asked_again(work, bus):
    bus.garbled = 2
    assert work() == [MEASURED]


def test_a_failure_is_told_once_and_its_end_too(work, bus, device):
    work()
    bus.garbled = 3
    (event,) = work()
    assert (event["event"], event["ok"]) == ("sensor", False)
    assert event["reason"].startswith("CRC 0x")
    bus.is_there = False
    assert work() == work() == []
    bus.is_there = True
    assert work() == [{"event": "sensor", "ok": True, "faults": 3, "was_reset": False}, MEASURED]
    assert work() == [MEASURED]


def test_a_sensor_that_lost_its_supply(work, bus, device):
    work()
    bus.is_there = False
    assert work()[0]["reason"] == "19"
    bus.is_there = True
    bus.power_on()
    device.now_ms += 2
    assert work()[0]["was_reset"] is True


def test_no_sensor_from_the_start(work, bus):
    bus.is_there = False
    assert [event["event"] for event in work()] == ["sensor"]
    assert work() == []


def test_an_alarm_is_told_when_it_begins_and_ends(work, bus, device):
    device.config["high_c"] = 25.0

    def events(celsius):
        bus.raw[0] = round((celsius + 45) * 65535 / 175)
        return [report["on"] for report in work() if report.get("event") == "alarm"]

    values = (24.9, 25.1, 25.3, 24.9, 24.6, 24.4, 24.9, 25.1)
    assert [events(celsius) for celsius in values] == [
        [], [True], [], [], [], [False], [], [True],
    ]  # fmt: skip


def test_a_version_that_cannot_read_its_sensor_may_not_stay(device, bus, monkeypatch):
    monkeypatch.setattr(app, "open_bus", lambda: bus)
    asyncio.run(app.self_test(device))
    bus.garbled = 99
    with pytest.raises(OSError, match="CRC"):
        asyncio.run(app.self_test(device))
    bus.is_there = False  # broken, which is not the version's fault
    asyncio.run(app.self_test(device))
