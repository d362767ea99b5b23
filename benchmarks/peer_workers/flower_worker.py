"""Flower's simulation with Ray, one actor a core: its Message API, or its older NumPyClient.

python flower_worker.py WORK.npz TRAINED.npz message|numpy

Heads are private: they stay in the client's context between rounds. The server's arrays are the
item table alone. The data is read by every Ray process once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# Before Flower and Ray are imported: a benchmark tells nobody that it runs.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import torch
import work as shared
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server import strategy as numpy_strategies
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_rows import step

__all__ = ["main"]

TABLE, HEAD, COUNT = "arrays", "head", "num-examples"


class Timed:
    """What both strategies gain: when each round's training was sent out and averaged."""

    seconds: list[float]
    began: float

    def begin(self) -> None:
        self.began = time.perf_counter()

    def end(self) -> None:
        self.seconds.append(time.perf_counter() - self.began)


class MessageStrategy(FedAvg, Timed):
    """Plain mean of the clients' tables."""

    def configure_train(self, server_round, arrays, config, grid):
        self.begin()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        averaged = super().aggregate_train(server_round, replies)
        self.end()
        return averaged


class NumPyStrategy(numpy_strategies.FedAvg, Timed):
    """Plain mean of the clients' tables; keeps the last one."""

    items: np.ndarray

    def configure_fit(self, server_round, parameters, client_manager):
        self.begin()
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):
        if failures:
            raise RuntimeError(f"round {server_round}: {failures[0]}")
        averaged, metrics = super().aggregate_fit(server_round, results, failures)
        self.end()
        (self.items,) = parameters_to_ndarrays(averaged)
        return averaged, metrics


def train(source: str, heads: str, table: np.ndarray, context: Context) -> np.ndarray:
    """One client's round: its trained table. Its head goes into the context, and to a file."""
    work = shared.load(source)
    torch.set_num_threads(1)
    client = int(context.node_config["partition-id"])
    if HEAD in context.state:
        head = torch.from_numpy(context.state[HEAD].to_numpy_ndarrays()[0].copy())
        number = int(context.state["round"]["number"]) + 1
    else:
        head, number = torch.from_numpy(work.head.copy()), 0
    items = torch.from_numpy(table.copy())  # what arrives cannot be written to
    for index, labels in shared.batches(
        work, client, np.random.default_rng([work.seed, number, client])
    ):
        parts = torch.from_numpy(index), torch.from_numpy(labels)
        step(items, head, *parts, work.lr, work.item_lr)
    context.state[HEAD] = ArrayRecord([head.numpy()])
    context.state["round"] = MetricRecord({"number": number})
    if number == work.warmup + work.rounds - 1:  # nobody else could ask for it afterwards
        stored = np.memmap(heads, np.float32, "r+", shape=(work.num_clients, len(head)))
        stored[client] = head.numpy()
    return items.numpy()


def message_apps(source: str, heads: str) -> tuple[ClientApp, ServerApp, MessageStrategy, list]:
    """Client and server by the Message API; the list receives the last table."""
    client, server, last = ClientApp(), ServerApp(), []
    # Without the minimum, the first round trains whoever has registered by then.
    everyone = shared.load(source).num_clients
    strategy = MessageStrategy(
        fraction_evaluate=0.0, min_train_nodes=everyone, min_available_nodes=everyone
    )

    @client.train()
    def _(message: Message, context: Context) -> Message:
        (table,) = message.content[TABLE].to_numpy_ndarrays()
        trained = train(source, heads, table, context)
        content = RecordDict({TABLE: ArrayRecord([trained]), "metrics": MetricRecord({COUNT: 1})})
        return Message(content=content, reply_to=message)

    @server.main()
    def _(grid: Grid, context: Context) -> None:
        work = shared.load(source)
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord([work.items]),
            num_rounds=work.warmup + work.rounds,
            timeout=86_400,
        )
        last.extend(result.arrays.to_numpy_ndarrays())

    return client, server, strategy, last


class Trainer(NumPyClient):
    """A client of the older interface."""

    def __init__(self, source: str, heads: str, context: Context) -> None:
        self.source, self.heads, self.own = source, heads, context

    def fit(self, parameters, config):
        return [train(self.source, self.heads, parameters[0], self.own)], 1, {}


def numpy_apps(source: str, heads: str) -> tuple[ClientApp, ServerApp, NumPyStrategy, list]:
    """Client and server by NumPyClient; the list stays empty, the strategy has the last table."""
    work = shared.load(source)
    strategy = NumPyStrategy(
        fraction_evaluate=0.0,
        accept_failures=False,
        min_fit_clients=work.num_clients,
        min_available_clients=work.num_clients,
        initial_parameters=ndarrays_to_parameters([work.items]),
    )
    config = ServerConfig(num_rounds=work.warmup + work.rounds)
    client = ClientApp(client_fn=lambda context: Trainer(source, heads, context).to_client())
    server = ServerApp(server_fn=lambda _: ServerAppComponents(strategy=strategy, config=config))
    return client, server, strategy, []


def main(source: Path, target: Path, interface: str) -> None:
    """Trains and reports."""
    work = shared.load(source)
    path = target.with_suffix(".heads")
    shape = (work.num_clients, len(work.head))
    np.memmap(path, np.float32, "w+", shape=shape)[:] = np.nan  # a missing head shows
    make = {"message": message_apps, "numpy": numpy_apps}[interface]
    client, server, strategy, last = make(str(source), str(path))
    strategy.seconds = []
    cores = len(os.sched_getaffinity(0))
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=work.num_clients,
        backend_config={
            "init_args": {
                "num_cpus": cores,
                "include_dashboard": False,
                "log_to_driver": False,
                "_temp_dir": str(target.parent / "ray"),  # goes with the folder; else it stays
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    shared.report(
        shared.Outcome(
            round_seconds=strategy.seconds[work.warmup :],
            sampling_seconds=[],
            peak_rss_bytes=shared.peak_rss_bytes(),
            items=last[0] if last else strategy.items,
            heads=np.memmap(path, np.float32, "r", shape=shape),
        ),
        target,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3])
