"""Training: data, loss, schedule, loop, checkpoints. See `loop.train`."""
