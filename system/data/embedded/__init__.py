"""The benchmarks that promptide draws itself from pictograms."""
