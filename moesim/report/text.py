"""A prediction as plain text."""

from __future__ import annotations

from typing import Any

from moesim.cost.cost import Cost, by_family
from moesim.engines.engine import load_engine
from moesim.errors import DoesNotFit
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.model_of import model_of, seen
from moesim.inputs.scenario import Scenario
from moesim.inputs.workload import Workload
from moesim.memory import Room
from moesim.metrics import Metric
from moesim.models.plan import Plan
from moesim.offload.tiers import Tiers
from moesim.outcome import Offloaded, Prediction
from moesim.serving.under_load import gpus_of, sides
from moesim.units import bytes_text

_ROWS = (
    ("TTFT, mean", "mean_ttft_ms", "ms", "prefill"),
    ("TTFT, last request", "max_ttft_ms", "ms", ""),
    ("TPOT, mean", "mean_tpot_ms", "ms", "decode"),
    ("ITL, median", "median_itl_ms", "ms", ""),
    ("ITL, p99", "p99_itl_ms", "ms", ""),
    ("decode step, median", "median_decode_step_ms", "ms", ""),
    ("decode step, p99", "p99_decode_step_ms", "ms", ""),
    ("ITL per batch token", "itl_per_batch_token_ms", "ms", ""),
    ("end-to-end latency", "mean_e2el_ms", "ms", ""),
    ("requests", "request_throughput", "req/s", ""),
    ("output tokens", "output_throughput", "tok/s", ""),
    ("all tokens", "total_token_throughput", "tok/s", ""),
)
_WIDTH = 72


def prediction_text(prediction: Prediction) -> str:
    """Metrics with intervals, what bounds them, memory, and what is not known well."""
    lines = [title(prediction), ""]
    lines.append(f"{'':22}{'':>12}  {'90 % interval':^23}  bound by")
    shared = Plan.of(prediction.scenario.engine).ep > 1 or isinstance(prediction, Offloaded)
    for label, name, unit, phase in _ROWS:
        if name.endswith("decode_step_ms") and not shared:
            continue
        lines.append(_metric_line(label, prediction.metrics[name], unit, prediction.bounds.get(phase, "")))
    lines += ["", *_memory(prediction), *technique_lines(prediction), "", *knowledge_lines(prediction)]
    return "\n".join(lines)


def technique_lines(prediction: Prediction) -> list[str]:
    """What a technique did that no metric says."""
    found = []
    if prediction.scenario.engine.moe_dispatch != "fused":
        from moesim.report.slots_text import slots_lines

        found += slots_lines(prediction)
    if prediction.scenario.variant is not None:
        from moesim.report.quality_text import quality_lines

        found += quality_lines(prediction.scenario)
    return found


def _memory(prediction: Prediction) -> list[str]:
    """Where memory goes, and what offloading does with it."""
    if isinstance(prediction, Offloaded):
        from moesim.report.offload_text import offload_lines, tiers_lines

        return [*tiers_lines(prediction.tiers), "", *offload_lines(prediction.offload)]
    room = prediction.memory
    assert isinstance(room, Room)
    return [*memory_lines(room), *_start_note(prediction, room)]


def routing_words(routing: Any) -> str:
    return f"{routing.kind} routing" if getattr(routing, "known", True) else f"{routing.kind} routing assumed"


def title(prediction: Prediction) -> str:
    """What is predicted, in a line."""
    scenario = prediction.scenario
    plan = Plan.of(scenario.engine)
    words = model_words(scenario)
    model = f"{words}," if "," in words else words
    how = f" ({plan.describe()})" if plan.world > plan.tp or plan.ep > 1 else ""
    if scenario.offload is not None:
        from moesim.inputs.system_file import load_system

        how = f" with {load_system(scenario.offload.system).title}"
    apart = scenario.disaggregation
    if apart is not None:
        plans = {name: Plan.of(side.engine).describe() for name, side in sides(scenario).items()}
        counts = {"prefill": apart.prefill_replicas, "decode": apart.decode_replicas}
        how = f" ({', '.join(f'{counts[name]} {name} engines of {text}' for name, text in plans.items())})"
    if scenario.offload is None:
        engine = load_engine(scenario.engine.name, scenario.engine.version)
        how += f" under {engine.file.name} {engine.asked}"
    asked = workload_words(seen(scenario).workload)
    return f"{model} on {_gpus_words(scenario)}{how}: {asked}, {routing_words(scenario.routing)}"


def model_words(scenario: Scenario) -> str:
    """A model's name, what a variant makes of it and what drafts for it."""
    found, drafts = [scenario.model], scenario.engine.drafts
    if scenario.variant is not None:
        found.append(scenario.variant.title)
    if drafts is not None:
        by = drafts.method if drafts.model is None else f"{drafts.method} {drafts.model}"
        found.append(f"{drafts.num_speculative_tokens} drafts by {by}")
    return ", ".join(found)


def _gpus_words(scenario: Scenario) -> str:
    """How many GPUs of what: of a node or cluster by its name, else cards."""
    many = gpus_of(scenario)
    if load_hardware(scenario.hardware).cluster is None:
        return f"{many} x {scenario.hardware}"
    return f"{many} GPU{'s' if many > 1 else ''} of {scenario.hardware}"


def workload_words(load: Workload) -> str:
    """The workload in a few words."""
    lengths = f"{load.input_len} in, {load.output_len} out"
    if load.images is not None and load.input_len is not None:
        many = f"{load.images.per_request} image{'s' if load.images.per_request > 1 else ''}"
        pictures = f"{many} of {load.image_tokens:,} tokens" if load.image_tokens else many
        lengths = f"{pictures} and {load.input_len - load.picture_len} in, {load.output_len} out"
    if load.arrivals == "batch":
        return f"batch {load.size}, {lengths}"
    who = {
        "closed_loop": f"{load.max_concurrency} clients",
        "open_loop": f"{load.request_rate:g} requests a second" if load.request_rate else "",
        "trace": f"trace {load.trace_file}",
    }[load.arrivals]
    if load.arrivals == "trace":
        return who
    law = load.lengths
    if law.kind == "uniform":
        lengths += f" (x {law.low:g} to {law.high:g})"
    elif law.kind == "lognormal":
        lengths += f" (lognormal, sigma {law.sigma:g})"
    elif law.kind == "file":
        lengths = f"lengths from {law.file}"
    return f"{who}, {lengths}"


def _metric_line(label: str, metric: Metric | None, unit: str, bound: str) -> str:
    if metric is None:
        return f"{label:22}{'-':>12}  (needs a second output token)"
    span = f"{number(metric.low):>9} .. {number(metric.high):<9}"
    return f"{label:22}{number(metric.value):>9} {unit:5} {span}  {bound}".rstrip()


def number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def memory_lines(room: Room, each: bool = False) -> list[str]:
    """Where a GPU's memory goes; ``each`` where what is needed is one request's, as under load."""
    cache = f"KV cache room   {bytes_text(room.kv_available):>10}"
    if room.kv_available > 0:
        if room.kv_range is not None:
            cache += f"  ({' .. '.join(bytes_text(max(end, 0.0)) for end in room.kv_range)})"
        cache += f"  {room.kv_blocks:,} blocks, {bytes_text(room.kv_bytes_per_token)} a token"
    lines = [
        f"memory of each GPU: {bytes_text(room.total)}, {bytes_text(room.usable)} of it usable",
        f"  weights         {bytes_text(room.weights):>10}",
        f"  activations     {bytes_text(room.activations):>10}",
        f"  CUDA graphs     {bytes_text(room.cuda_graphs):>10}",
        f"  communication   {bytes_text(room.communication):>10}",
        f"  other           {bytes_text(room.other):>10}",
        f"  {cache}",
        f"  {'a request' if each else 'this workload':15} {bytes_text(room.kv_needed):>10}",
    ]
    if room.fits:
        lines.append(
            f"  most requests at this context: {room.largest_batch:,}; longest context alone: {room.longest_context:,}"
            if each
            else f"  largest batch at this context: {room.largest_batch:,}; "
            f"longest context at this batch: {room.longest_context:,}"
        )
    return lines


def _start_note(prediction: Prediction, room: Room) -> list[str]:
    """vLLM checks at start that one sequence of max_model_len fits."""
    engine, alone = prediction.scenario.engine, room.longest_alone
    model = model_of(prediction.scenario)
    limit = engine.max_model_len or model.max_position_embeddings
    if not limit or alone >= limit:
        return []
    return [f"  vLLM starts only with --max-model-len up to {alone:,} here (it would ask for {limit:,})"]


def knowledge_lines(prediction: Prediction) -> list[str]:
    """How the time is known, and what is doubtful about it."""
    shares = ", ".join(
        f"{share:.0%} {tag}" for tag, share in sorted(prediction.knowledge.tags.items(), key=lambda i: -i[1])
    )
    lines = [f"time priced by: {shares}"]
    by_note: dict[str, list[str]] = {}
    for note in prediction.knowledge.notes:
        name, apart, text = note.partition(": ")
        by_note.setdefault(text if apart else note, []).extend([name] if apart else [])
    lines += [f"  {text}{': ' * bool(names)}{', '.join(sorted(names))}" for text, names in sorted(by_note.items())]
    return lines


def does_not_fit_text(error: DoesNotFit) -> str:
    """By how much, where the memory goes, and what would fit."""
    lines = [str(error), ""]
    if isinstance(error.memory, Room):
        lines += memory_lines(error.memory)
    elif isinstance(error.memory, Tiers):
        from moesim.report.offload_text import tiers_lines

        lines += tiers_lines(error.memory)
    lines.append("")
    if error.ways_out:
        lines.append("would fit: " + "; ".join(error.ways_out))
    elif isinstance(error.memory, Tiers):
        lines.append("no single change of the amount on the GPU, the precision, the host or the length fits")
    else:
        lines.append("no single change of TP, precision, batch or length fits on this GPU")
    return "\n".join(lines)


def explain_text(prediction: Prediction) -> str:
    """The cost tree: seconds, share, interval, bound, source, and the formulas used."""
    total = prediction.cost.seconds
    head = f"{'':44}{'times':>6}{'total':>12}{'share':>8}  {'bound':9}{'tag':14}source"
    lines = [head]
    formulas: dict[str, str] = {}
    _tree(prediction.cost, 0, 1.0, total, lines, formulas)
    lines += ["", *_interval_lines(prediction.cost), *_kernel_lines(prediction)]
    if prediction.scenario.engine.drafts is not None:
        from moesim.report.speculation_text import speculation_lines

        lines += speculation_lines(prediction)
    lines += ["", "formulas:"]
    lines += [f"  {source.rsplit(':', 1)[-1]}: {formula}" for source, formula in formulas.items()]
    return "\n".join(lines)


_LEAST_TERM = 0.01


def _interval_lines(cost: Cost) -> list[str]:
    """What the interval of each phase is made of: terms that err independently, each with its share of the time."""
    lines = []
    for part in cost.children or [cost]:
        terms = {
            name: (float(down / part.seconds), float(up / part.seconds))
            for name, (down, up) in by_family(part.spread).items()
        }
        shown = sorted(((name, *ends) for name, ends in terms.items() if max(ends) >= _LEAST_TERM), key=lambda t: -t[2])
        if shown:
            words = ", ".join(f"{name} -{down:.0%} +{up:.0%}" for name, down, up in shown)
            lines.append(f"interval of {part.name}: {words}")
    return lines


def _kernel_lines(prediction: Prediction) -> list[str]:
    """Which kernel runs the experts, why, and what else this version has for them."""
    from moesim.assembly import assemble

    rank = assemble(prediction.scenario).rank
    ffn = rank.model.moe
    if ffn is None:
        return []
    chosen, *unsure = rank.expert_kernels(ffn)
    asked = "asked for" if rank.moe_backend != "auto" else chosen.source
    needs = f", where {chosen.needs} is installed" if chosen.needs else ""
    version = f"{rank.engine.file.name} {rank.engine.asked}"
    lines = [f"experts ({ffn.experts}): {version} runs {chosen.backend}{needs}: {asked}"]
    for other in unsure:
        lines.append(f"  or {other.backend}, which is in the interval; moe_backend narrows it: {other.source}")
    rest = [other for other in rank.other_kernels(ffn) if other not in (chosen, *unsure)]
    return lines + [f"  it also has {other.backend}: {other.source}" for other in rest]


def _tree(cost: Any, depth: int, times: float, total: float, lines: list[str], formulas: dict[str, str]) -> None:
    seconds = cost.seconds * cost.count * times
    name = "  " * depth + cost.name
    count = f"x{cost.count}" if cost.count > 1 else ""
    line = f"{name:44}{count:>5} {1e3 * seconds:>9.3f} ms{seconds / total:>8.1%}"
    if not cost.children:
        line += f"  {cost.bound:9}{cost.tag:14}{cost.source}"
        formulas.setdefault(cost.source, cost.formula)
    lines.append(line)
    for child in cost.children:
        _tree(child, depth + 1, times * cost.count, total, lines, formulas)
