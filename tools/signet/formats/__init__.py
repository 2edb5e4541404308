"""The formats that several groups read and write: flash, images, file systems, signatures."""
