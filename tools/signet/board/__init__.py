"""`signet board`: boards, virtual ones and real ones, and the flash that they boot from."""
