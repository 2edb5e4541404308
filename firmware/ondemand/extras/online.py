"""device.online(): whether there is a connection to the broker, for what has to be safe without."""


def make(device):
    def online():
        """One that died without a word is known to have after a minute and a half."""
        session = device._session
        return bool(session and not session.client.error)

    device.online = online
    return online
