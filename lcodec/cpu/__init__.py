"""The transforms of lc-s on a CPU in C, without torch: fast to start, and fast."""
