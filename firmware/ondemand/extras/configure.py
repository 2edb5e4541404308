"""device.configure(schema): have device.config hold checked values, from now on."""

from micropython import const

from firmware.ondemand import check, control, unload

_REASON_LEN = const(400)


def make(device):
    def configure(schema):
        """What was kept may be another version's: what fits stays, and an event tells the rest.

        The file stays, too, for that version may come back.  ValueError if it is no schema.
        """
        check.verify(schema, True)
        control.load_config(device)
        device._schema = schema
        device.config, wrong = check.mend(schema, device.config)
        if wrong:
            reason = "of what was kept: " + ", ".join(wrong)
            device.event("config", ok=False, reason=reason[:_REASON_LEN])
        unload()

    return configure
