"""What the encoder searches for: a quality that meets a target, and better latents for the image at hand.

`target` finds the quality, `refine` the latents. The decoder knows nothing of either.
"""
