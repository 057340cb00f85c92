"""Probes: functions of a layer or a training step that return one number per member of the ensemble.

An option of a probe outside its range raises ValueError.
"""

from engine.probes.activations import NearLinearFraction as NearLinearFraction
from engine.probes.activations import SaturatedFraction as SaturatedFraction
from engine.probes.activations import activation_mean as activation_mean
from engine.probes.activations import activation_std as activation_std
from engine.probes.activations import dead_examples as dead_examples
from engine.probes.activations import dead_fraction as dead_fraction
from engine.probes.activations import dead_units as dead_units
from engine.probes.activations import slope_mean_square as slope_mean_square
from engine.probes.activations import z_mean_square as z_mean_square
from engine.probes.base import Layer as Layer
from engine.probes.base import Measurement as Measurement
from engine.probes.base import Probe as Probe
from engine.probes.base import Step as Step
from engine.probes.base import Traits as Traits
from engine.probes.base import layer_probe as layer_probe
from engine.probes.base import measure as measure
from engine.probes.base import step_probe as step_probe
from engine.probes.base import traits_of as traits_of
from engine.probes.cotangent import RandomCotangent as RandomCotangent
from engine.probes.curvature import Sharpness as Sharpness
from engine.probes.examples import delta_cosine as delta_cosine
from engine.probes.examples import example_gradient_rms as example_gradient_rms
from engine.probes.examples import gradient_signal as gradient_signal
from engine.probes.examples import gradient_signal_to_noise as gradient_signal_to_noise
from engine.probes.examples import gradient_variance as gradient_variance
from engine.probes.examples import z_cosine as z_cosine
from engine.probes.exponents import ExponentHistogram as ExponentHistogram
from engine.probes.gradients import bias_gradient_norm as bias_gradient_norm
from engine.probes.gradients import coherence as coherence
from engine.probes.gradients import delta_ratio as delta_ratio
from engine.probes.gradients import delta_ratio_local as delta_ratio_local
from engine.probes.gradients import delta_rms as delta_rms
from engine.probes.gradients import gradient_norm as gradient_norm
from engine.probes.spectra import InputOutputJacobianSpectrum as InputOutputJacobianSpectrum
from engine.probes.spectra import LayerJacobianSpectrum as LayerJacobianSpectrum
from engine.probes.updates import gradient_cosine as gradient_cosine
from engine.probes.updates import lost_updates as lost_updates
from engine.probes.updates import update_norm as update_norm
from engine.probes.updates import update_to_weight as update_to_weight
from engine.probes.updates import weight_norm as weight_norm
