"""MQTT 3.1.1 for MicroPython's asyncio: `mqtt.client` connects, `mqtt.codec` is the wire format.

Nothing is imported here, so that nobody pays for a part that they do not use.
"""
