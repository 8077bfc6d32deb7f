"""The embedded models: small diffusion models that come with the package, and everything that made them.

data/        programs that draw images and synthesize sounds, with captions
recipe/      the models' architectures, tokenizers and config files
training/    one file for each stage of the training, and the loop that all stages share
evaluation/  the table of the models' quality
weights/     the trained weights, in the layouts of diffusers and transformers
judges.py    classifiers that recognize subjects and sounds
scorer.py    the judges as a scorer for sweeps
train.py     the command that trains the models
evaluate.py  the command that measures them
"""
