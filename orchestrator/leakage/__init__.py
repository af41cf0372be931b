"""The lab behind `keymixer leakage`: what it reads, runs and writes."""
