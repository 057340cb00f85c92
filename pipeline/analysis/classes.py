"""Names of the classes of a verdict, and of the causes that an explanation gives for them."""

from __future__ import annotations

# The gradient flow over the hidden layers: one of these.
HEALTHY, VANISHING, EXPLODING, UNSURE = "healthy", "vanishing", "exploding", "not enough evidence"
SINGLE = "one hidden layer"
# Faults: any number of these.
DIVERGED, BLOCKED, DEATH, SATURATION = "diverged", "no gradient", "dead", "saturated"
IDENTICAL, EQUAL_INPUTS, EQUAL_TARGETS = "identical units", "equal inputs", "equal targets"
TOO_HIGH, TOO_LOW, DECAY = "learning rate too high", "learning rate too low", "weight decay too strong"

# Causes.
AT_START, IN_TRAINING = "at the start", "in training"  # follow dead, saturated or diverged: "dead at the start"
LARGE_INPUTS, LARGE_WEIGHTS, FINITE_WIDTH = "large inputs", "large weights or biases", "finite width"
MOMENTUM, CLIPPING, ZERO_RATE = "momentum", "clipping", "zero learning rate"
