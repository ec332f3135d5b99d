"""The benchmarks behind scripts/bench: each prints ratios from one interleaved run, and the machine it ran on."""
