"""What brokers do otherwise than the standard says, each seen with another client than ours, too.

(broker, version of MQTT, case) -> what. A case that is in here and passes is reported as well.
"""

_RETAIN_HANDLING = (
    "sends retained messages again to who renews a subscription, in spite of retain "
    "handling 1 (MQTT-3.3.1-10)"
)
_DELIVERED_QOS = (
    "delivers at the subscription's QoS what was published at a lower one (section 3.8.4)"
)
_SILENT_CLIENT = (
    "keeps the connection of a client that is silent for longer than 1.5 times its keep-alive "
    "(MQTT-3.1.2-24)"
)
_FORGETS = "forgets the session when a connection breaks (MQTT-3.1.2-4)"
_TAKEN_OVER = "does not close the connection whose client id another client takes (MQTT-3.1.4-2)"

_DISORDER = "delivers messages at QoS 2 out of order now and then (section 4.6)"

DEVIATIONS: dict[tuple[str, int, str], str] = {
    ("RabbitMQ", 5, "retain handling, retain as published"): _RETAIN_HANDLING,
    ("Aedes", 4, "receive at QoS 2"): _DISORDER,
    ("aMQTT", 4, "publish at QoS 0"): _DELIVERED_QOS,
    ("aMQTT", 4, "publish at QoS 1"): _DELIVERED_QOS,
    ("aMQTT", 4, "keep-alive"): _SILENT_CLIENT,
    ("aMQTT", 4, "session survives a cut"): _FORGETS,
    ("aMQTT", 4, "cut while messages wait"): _FORGETS,
    ("aMQTT", 4, "broker restarted"): _FORGETS,
    ("aMQTT", 4, "taken over by another client"): _TAKEN_OVER,
}
# Those that do not show every time.
INTERMITTENT = {("Aedes", 4, "receive at QoS 2")}
