"""zuko's side of conditional.py, run by the environment of the other libraries: python by_zuko.py IN.npz OUT.npz."""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
import zuko
from zuko_layout import shapes


def log_probs(given: Any, k: int, d: int) -> dict[str, np.ndarray]:
    """zuko's log-densities of the points under all those parameters."""
    found = {}
    for name in (n for n in given.files if n.count("-") == 2):
        kind, tied, _ = name.split("-")
        vector, parts = torch.tensor(given[name]), []
        for shape in shapes(k, d, kind, tied == "True"):
            part, vector = vector.split([int(np.prod(shape)), vector.shape[-1] - int(np.prod(shape))], dim=-1)
            parts.append(part.reshape(*part.shape[:-1], *shape))
        model = zuko.mixtures.GMM(d, 0, k, kind, tied == "True")
        mixture = model._forward_full(*parts) if kind == "full" else model._forward_diagonal(*parts)
        found[name] = mixture.log_prob(torch.tensor(given["points"])).numpy()
    return found


def train(case: dict[str, Any], context: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """Seconds of every epoch of zuko's GMM under Adam, and the mean log-likelihood of each."""
    torch.manual_seed(0)
    c, x = torch.tensor(context), torch.tensor(x)
    model = zuko.mixtures.GMM(x.shape[1], c.shape[1], case["components"], case["kind"], hidden_features=case["hidden"])
    model.initialize(x, strategy="kmeans")
    optimizer = torch.optim.Adam(model.parameters(), lr=case["learning_rate"])
    seconds, means = [], []
    for _ in range(case["epochs"]):
        begun, total = time.perf_counter(), 0.0
        batches = torch.randperm(len(x)).split(case["batch_size"])
        for batch in batches[: len(x) // case["batch_size"]]:
            loss = -model(c[batch]).log_prob(x[batch]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total -= float(loss.detach())
        seconds.append(time.perf_counter() - begun)
        means.append(total / (len(x) // case["batch_size"]))
    return {"seconds": np.array(seconds), "means": np.array(means)}


if __name__ == "__main__":
    given = np.load(sys.argv[1])
    case = json.loads(str(given["case"])) if "case" in given.files else None
    answer = train(case, given["context"], given["x"]) if case else log_probs(given, int(given["k"]), int(given["d"]))
    np.savez(sys.argv[2], **answer)
