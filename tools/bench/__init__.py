"""The benchmarks: `make bench`, `make bench-mqtt` and `make bench-provision`."""
