"""What `ifconfig` of an interface takes: network_common.c. Loaded when it is needed."""


def parse(setting):
    """The tuple (address, netmask, gateway, name server), or ValueError."""
    if not isinstance(setting, (tuple, list)):
        raise ValueError("invalid arguments")
    if len(setting) != 4:
        raise ValueError("requested length 4 but object has length %d" % len(setting))
    for text in setting:
        parts = text.split(".")
        if len(parts) != 4 or any(not part.isdigit() or int(part) > 255 for part in parts):
            raise ValueError("invalid arguments")
    return tuple(setting)
