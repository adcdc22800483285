"""Wrappers: flat actions for learners without hybrid ones, encoded states, phases, ablations."""

from rcnas_env.wrappers.encoded_state import EncodedState
from rcnas_env.wrappers.flat_action import DiscreteAction, FlatAction
from rcnas_env.wrappers.masked_state import MaskedState, MaskedVectorState
from rcnas_env.wrappers.phases import FineTuning, MetaTraining

__all__ = [
    "DiscreteAction",
    "EncodedState",
    "FineTuning",
    "FlatAction",
    "MaskedState",
    "MaskedVectorState",
    "MetaTraining",
]
