"""`signet fleet`: the servers of a fleet, and a session with its broker."""
