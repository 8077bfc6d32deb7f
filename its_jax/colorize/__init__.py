"""Adds color to finished samples. The gray of the spectrogram does not change; a model adds the colors."""
