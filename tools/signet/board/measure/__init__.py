"""`signet board measure`: a board is driven through its work, and asked for its memory."""
