"""Which experts each token picks in a measurement: the distributions that kernel tables and scenarios know."""

from __future__ import annotations

from pathlib import Path

import torch

Chosen = tuple[torch.Tensor, torch.Tensor]
"""Weights (tokens, k) and expert numbers (tokens, k)."""


def routes(
    device: str, tokens: int, experts: int, k: int, distribution: str, draws: int = 4, seed: int | None = 0
) -> list[Chosen]:
    """Several draws of a routing: ``balanced`` (round robin, token t to (t + j ceil(E/k)) mod E), ``uniform``,
    ``zipf_S`` (popularity falls as rank to the -S), ``power_law_A`` (shares drawn from [1, 0.8 N] with exponent A),
    ``identical``, ``trace_FILE`` (a CSV line of expert numbers a token, repeated as needed).

    Without a ``seed`` torch's own generator draws, as a CUDA graph needs it, and popularity falls with the expert's
    number.
    """
    if device == "meta":
        weights = torch.empty(tokens, k, device="meta")
        return [(weights, torch.empty(tokens, k, dtype=torch.int32, device="meta"))] * draws
    kind, _, detail = distribution.rpartition("_") if distribution[-1].isdigit() else (distribution, "", "")
    if distribution.startswith("trace_"):
        kind, detail = "trace", distribution.removeprefix("trace_")
    generator = None if seed is None else torch.Generator(device=device).manual_seed(seed)
    found = []
    for draw in range(draws):
        ids = _ids(device, tokens, experts, k, kind, detail, generator)
        if kind in {"balanced", "identical"}:
            # The same pattern over other experts.
            ids = (ids + draw * (k if kind == "identical" else 1)) % experts
        weights = torch.softmax(torch.rand(tokens, k, device=device, generator=generator), -1)
        found.append((weights, ids.to(torch.int32).contiguous()))
    return found


def _ids(
    device: str, tokens: int, experts: int, k: int, kind: str, detail: str, generator: torch.Generator | None
) -> torch.Tensor:
    each, order = torch.arange(tokens, device=device)[:, None], torch.arange(k, device=device)[None]
    if kind == "balanced":
        return (each + order * -(-experts // k)) % experts
    if kind == "identical":
        return order.expand(tokens, k)
    if kind == "trace":
        return _traced(device, tokens, experts, k, detail)
    popularity = torch.zeros(experts, device=device)
    if kind == "zipf":
        ranks = torch.arange(1, experts + 1, device=device, dtype=torch.float32)
        popularity = -float(detail) * torch.log(ranks)
        if generator is not None:
            popularity = popularity[torch.randperm(experts, device=device, generator=generator)]
    elif kind == "power_law":
        u = torch.rand(experts, device=device, generator=generator)
        most, exponent = max(0.8 * tokens, 1.001), 1.0 - float(detail)
        popularity = torch.log((1.0 + u * (most**exponent - 1.0)) ** (1.0 / exponent))
    elif kind != "uniform":
        raise ValueError(f"no routing '{kind}'")
    # Gumbel top-k: k different experts, each draw in proportion to its popularity.
    u = torch.rand(tokens, experts, device=device, generator=generator).clamp_(1e-9, 1 - 1e-7)
    return torch.topk(popularity - torch.log(-torch.log(u)), k).indices


def _traced(device: str, tokens: int, experts: int, k: int, file: str) -> torch.Tensor:
    lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    rows = torch.tensor([[int(cell) for cell in line.split(",")] for line in lines], device=device)
    if rows.shape[1] != k or int(rows.max()) >= experts or int(rows.min()) < 0:
        raise ValueError(f"'{file}' holds not {k} expert numbers below {experts} a line")
    return rows.repeat(-(-tokens // len(rows)), 1)[:tokens]
