"""What the access points say that there are. Loaded when the host says which."""


def refusal(air, ssid, key):
    """What chip.refusal does; air: the file."""
    air.seek(0)
    for line in air:
        name, tab, wanted = line.rstrip(b"\n").partition(b"\t")
        if tab and name == ssid.encode():
            return 0 if wanted == (key or "").encode() else 202  # it failed to authenticate
    return 201
