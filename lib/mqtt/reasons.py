"""The names of MQTT 5's reason codes, section 2.4: for messages, so imported when one is made."""

# From 0x80 on, none left out; one string, because each name of its own would cost heap.
_FAILURES = (
    "Unspecified error|Malformed Packet|Protocol Error|Implementation specific error|"
    "Unsupported Protocol Version|Client Identifier not valid|Bad User Name or Password|"
    "Not authorized|Server unavailable|Server busy|Banned|Server shutting down|"
    "Bad authentication method|Keep Alive timeout|Session taken over|Topic Filter invalid|"
    "Topic Name invalid|Packet Identifier in use|Packet Identifier not found|"
    "Receive Maximum exceeded|Topic Alias invalid|Packet too large|Message rate too high|"
    "Quota exceeded|Administrative action|Payload format invalid|Retain not supported|"
    "QoS not supported|Use another server|Server moved|Shared Subscriptions not supported|"
    "Connection rate exceeded|Maximum connect time|Subscription Identifiers not supported|"
    "Wildcard Subscriptions not supported"
)
# Those that an acknowledgement can have.
_SUCCESSES = {0x00: "Success", 0x10: "No matching subscribers", 0x11: "No subscription existed"}


def name(code):
    """What the standard calls a reason code: name(0x87) is "Not authorized".

    "Unknown reason" for a code that is not the standard's, or of no acknowledgement or refusal.
    """
    if 0x80 <= code <= 0xA2:
        return _FAILURES.split("|")[code - 0x80]
    return _SUCCESSES.get(code, "Unknown reason")
