"""A run under load as plain text."""

from __future__ import annotations

from functools import singledispatch

from moesim.metrics import LATENCIES, Metric
from moesim.outcome import Prediction, Served, Steady
from moesim.report.text import knowledge_lines, memory_lines, number, prediction_text, technique_lines, title
from moesim.serving.report import NO_SLO, LoadReport
from moesim.serving.under_load import gpus_of

_LABELS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "end-to-end"}
_RATES = (
    ("requests", "request_throughput", "req/s"),
    ("output tokens", "output_throughput", "tok/s"),
    ("all tokens", "total_token_throughput", "tok/s"),
)


@singledispatch
def shown(prediction: Prediction) -> str:
    """Any prediction as text."""
    return prediction_text(prediction)


@shown.register
def load_text(prediction: Served) -> str:
    """Latencies with their spread over requests, throughput, goodput, occupancy, memory, and what is not known well."""
    report = prediction.report
    lines = [title(prediction), "", f"{'':16}{'mean':>9}{'90 % interval':^25}{'median':>9}{'p90':>9}{'p99':>9}"]
    for name in LATENCIES:
        mean = prediction.metrics[f"mean_{name}_ms"]
        if mean is None:
            lines.append(f"{_LABELS[name]:12}{'-':>13}  (needs a second output token)")
            continue
        rest = "".join(f"{number(prediction[f'{s}_{name}_ms']):>9}" for s in ("median", "p90", "p99"))
        lines.append(f"{_LABELS[name]:12}ms{_with_interval(mean, 11)}{rest}")
    lines += ["", *_rate_lines(prediction)]
    lines += [*_shares(prediction, report), "", *_occupancy(report), *_policies(report)]
    bounds = prediction.bounds
    lines += [f"bound by: {', '.join(f'{kind} steps {what}' for kind, what in bounds.items())}", ""]
    lines += [*memory_lines(prediction.room, each=True), *technique_lines(prediction), "", *knowledge_lines(prediction)]
    return "\n".join(lines)


def _policies(report: LoadReport) -> list[str]:
    """What policies did: tokens served under each, and sleep."""
    found, total = [], sum(report.tokens_under.values())
    if total:
        shares = ", ".join(f"{name} {tokens:,} ({tokens / total:.1%})" for name, tokens in report.tokens_under.items())
        found.append(f"output tokens by policy: {shares}")
    if report.wakes:
        found.append(f"GPUs given up for {report.parked_s:,.1f} s, taken back {report.wakes:,} times")
    return found


_LIMITS = {
    "clients": "the clients: each waits for its answer before it asks again",
    "rate": "the rate of arrivals",
}


@shown.register
def steady_text(prediction: Steady) -> str:
    """Means of the steady state, what holds it back, memory, and what is not known well."""
    state = prediction.state
    lines = [f"{title(prediction)}: steady state", "", f"{'':16}{'mean':>9}{'90 % interval':^25}"]
    for name in ("ttft", "tpot", "e2el"):
        metric = prediction.metrics[f"mean_{name}_ms"]
        if metric is None:
            lines.append(f"{_LABELS[name]:12}ms{'-':>11}")
            continue
        lines.append(f"{_LABELS[name]:12}ms{_with_interval(metric, 11)}")
    lines += ["", *_rate_lines(prediction)]
    lines += [
        "",
        f"limited by {_LIMITS[state.limited_by]}",
        f"{number(state.running)} sequences decode at once, {state.prompt_share:.0%} of the time goes to prompts",
    ]
    return "\n".join([*lines, "", *memory_lines(prediction.room, each=True), "", *knowledge_lines(prediction)])


def _rate_lines(prediction: Prediction) -> list[str]:
    lines = []
    for label, name, unit in _RATES:
        metric = prediction.metrics[name]
        assert metric is not None
        lines.append(f"{label:14}{_with_interval(metric, 11)} {unit}")
    return lines


def _with_interval(metric: Metric, width: int) -> str:
    return f"{number(metric.value):>{width}}{number(metric.low):>11} .. {number(metric.high):<10}"


def _shares(prediction: Prediction, report: LoadReport) -> list[str]:
    """Throughput per GPU and per user, as InferenceX plots them, and goodput where an SLO was given."""
    gpus = gpus_of(prediction.scenario)
    per_gpu = f"per GPU {number(prediction['output_throughput'] / gpus)} output tok/s"
    per_user = f"per user {number(1e3 / prediction['mean_tpot_ms'])} tok/s" if report.tpot.count else ""
    lines = ["  " + ", ".join(x for x in (per_gpu, per_user) if x)]
    if report.slo != NO_SLO:
        share = report.good / max(report.answered, 1)
        good = number(report.good / report.duration_s)
        lines.append(f"goodput       {good:>11} req/s, {share:.1%} of the answers")
    return lines


def _occupancy(report: LoadReport) -> list[str]:
    kv, waiting, running = report.kv_used, report.waiting, report.running
    prompts = report.mixed_s / max(report.mixed_s + report.decode_s, 1e-12)
    lines = [
        f"{report.answered:,} requests in {number(report.duration_s)} s, {report.steps:,} steps, "
        f"{prompts:.0%} of the time with prompt tokens among them",
        f"running {number(running.mean)} (at most {running.peak:.0f}), waiting {number(waiting.mean)} (at most "
        f"{waiting.peak:.0f}), KV cache {kv.mean:.0%} used (at most {kv.peak:.0%}), {report.preemptions:,} preemptions",
    ]
    if report.cached_tokens:
        lines.append(
            f"{report.cached_tokens / max(report.input_tokens, 1):.0%} of the prompt tokens found in the cache"
        )
    if report.cache_limited:
        lines.append("requests wait for the KV cache: more memory, or fewer at once, shortens the time to first token")
    return lines
