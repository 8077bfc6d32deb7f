"""Colours for finished samples: the grey of the spectrogram stays as it is, a model adds the colours."""
