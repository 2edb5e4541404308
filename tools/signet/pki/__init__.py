"""`signet pki`: keys and certificates of a fleet and its devices."""
