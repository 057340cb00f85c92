"""Mean-field theory of gradients in wide networks at initialisation."""

from engine.theory.gaussian import Average as Average
from engine.theory.gaussian import expectation as expectation
from engine.theory.mean_field import FixedPoint as FixedPoint
from engine.theory.mean_field import FixedPoints as FixedPoints
from engine.theory.mean_field import MeanField as MeanField
from engine.theory.mean_field import critical_weight_variance as critical_weight_variance
from engine.theory.mean_field import moments as moments
from engine.theory.profile import Profile as Profile
from engine.theory.profile import profile as profile
