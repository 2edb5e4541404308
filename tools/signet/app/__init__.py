"""What a user runs while he develops an application in a folder of his own."""
