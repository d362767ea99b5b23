"""Simulation: the engine that runs all clients, the round loop, checkpoints, the byte ledger."""

from fedjax_rec.simulation.engine import Engine, Outcome, State
from fedjax_rec.simulation.result import Result
from fedjax_rec.simulation.seconds import Seconds
from fedjax_rec.simulation.simulate import simulate

__all__ = ["Engine", "Outcome", "Result", "Seconds", "State", "simulate"]
