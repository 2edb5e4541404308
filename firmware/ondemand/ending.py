"""The restart that was asked for, in good order."""

import machine


def restart(agent):
    """Restart, with the reason kept for the next start."""
    print("signet:", agent.restart_reason)
    # Alone, "console" tells stage 1 to open it: every other text follows a number.
    number = b"" if agent.restart_reason == "console" else b"0 "
    machine.RTC().memory(number + agent.restart_reason.encode())
    machine.reset()
