"""`signet image`: slot images, built, signed, verified and described."""
