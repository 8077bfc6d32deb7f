"""The canvas of the embedded models: its size in pixels, which are mel bands and frames, and the scale of loudness."""

import math

from its_jax.audio.mel import MelConfig

HEIGHT, WIDTH = 128, 512  # pixels: mel bands, and frames of 10 ms
# Black is 80 dB below white. White is quiet enough that an image with much of it plays without clipping, and the
# program's sounds have the same level.
MEL = MelConfig(n_mels=HEIGHT, log_min=math.log(2.5e-4), log_max=math.log(2.5))
NUM_SAMPLES = WIDTH * MEL.hop_length
