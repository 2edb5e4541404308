"""MQTT 3.1.1 and 5 for MicroPython's asyncio; docs/mqtt.md.

    client   Client: connects and stays connected, QoS 0 and 1 (with codec, link and connect)
    full     FullClient: QoS 2, posting without waiting, messages larger than memory (large)
    store    FileStore: what survives a restart
    v5       MQTT 5 for either client; reasons: its codes in words
    router   handlers by topic filter;  rpc: request and response

Nothing is imported here, so that nobody pays for a part that they do not use.
"""
