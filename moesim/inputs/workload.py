"""What is asked of the engine: a static batch, clients in a closed loop, arrivals at a rate, or a trace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.files.quantities import NO_SWITCH, Delay, PathText, Strict, Whole

Positive = Annotated[float, Field(gt=0, le=1e9)]

MOST_PROMPTS = 20_000_000
"""Of one simulated run: an hour or two. Ten a client are simulated where nothing says how many."""


OF_LOAD = ("num_prompts", "burstiness", "cached_share", "ignore_eos")
"""Settings of requests that come one after the other."""


class Fixed(Strict):
    """Every request has ``input_len`` and ``output_len`` tokens."""

    kind: Literal["fixed"] = "fixed"


class Uniform(Strict):
    """Lengths drawn evenly between ``low`` and ``high`` times input_len and output_len, each on its own."""

    kind: Literal["uniform"]
    low: Annotated[float, Field(gt=0, le=1)] = 0.8
    """InferenceX draws from 0.8 to 1."""
    high: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.high < self.low:
            raise ValueError(f"high ({self.high:g}) is below low ({self.low:g}); low <= high is accepted")
        return self


class Lognormal(Strict):
    """Lognormal lengths whose means are input_len and output_len; ``sigma`` of the logarithm."""

    kind: Literal["lognormal"]
    sigma: Annotated[float, Field(gt=0, le=3)] = 0.6


class FromFile(Strict):
    """Pairs of lengths drawn from the rows of a CSV file with the columns input_len and output_len, or of any trace."""

    kind: Literal["file"]
    file: PathText


Lengths = Annotated[Fixed | Uniform | Lognormal | FromFile, Field(discriminator="kind")]

Arrivals = Literal["batch", "closed_loop", "open_loop", "trace"]


class Images(Strict):
    """Images of every request, in front of its text, all alike and all different.

    Lengths are drawn of the text alone.
    """

    per_request: Whole = 1
    width: Annotated[int, Field(ge=1, le=65536), NO_SWITCH] = 1024
    height: Annotated[int, Field(ge=1, le=65536), NO_SWITCH] = 1024
    preprocessing: Delay | None = None
    """Of one image on the host, like 40 ms, one after the other; null is what an engine's file assumes by pixels."""


class Workload(Strict):
    """Requests of ``input_len`` prompt tokens and ``output_len`` new ones, and when they come.

    ``batch_size`` alone is one static batch. ``max_concurrency`` is a closed loop: so many clients, each sending its
    next request when the last is answered. ``request_rate`` is an open loop, its gaps Poisson or gamma, with
    ``max_concurrency`` as a cap where given. ``trace_file`` names arrivals one by one.
    """

    batch_size: Whole | None = None
    """A static batch; 1 where nothing says when requests come."""
    max_concurrency: Annotated[int, Field(ge=1, le=MOST_PROMPTS // 10), NO_SWITCH] | None = None
    request_rate: Annotated[float, Field(ge=1e-6, le=1e9)] | None = None
    """Requests per second. [1/s]"""
    burstiness: Positive = 1.0
    """Shape of the gamma gaps between arrivals: 1 is Poisson, less is burstier (vLLM bench's meaning)."""
    trace_file: PathText | None = None
    """CSV with arrival_s, input_len, output_len (and prefix_id, prefix_len), or what Azure, BurstGPT, Mooncake and
    others publish (docs/load.md)."""
    num_prompts: Annotated[int, Field(ge=1, le=MOST_PROMPTS), NO_SWITCH] | None = None
    """Requests in all; null is ten a client, a thousand at a rate, or all of a trace."""
    input_len: Whole | None = None
    output_len: Whole | None = None
    lengths: Lengths = Fixed()
    images: Images | None = None
    """Beside the text: input_len counts text alone, the tokens of images come on top."""
    image_tokens: Annotated[int, Field(ge=0, le=1 << 24), NO_SWITCH] = 0
    """Of each image, where input_len counts them; 0 is as many as the model's tower makes, on top of input_len."""
    cached_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each prompt that all requests have in common: prefix-cache hits once it is there."""
    ignore_eos: bool = True
    """Every request generates its full output_len. False makes output_len the mean of a geometric length."""
    sampling: Literal["greedy", "top_p"] = "greedy"
    """How the next token is drawn: benchmarks take the likeliest; top_p (and top-k, a model's generation_config) sorts
    the vocabulary in engine versions that need to."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1), NO_SWITCH] = 0

    @model_validator(mode="after")
    def _one_way_to_arrive(self) -> Workload:
        ways = [n for n in ("max_concurrency", "request_rate", "trace_file") if getattr(self, n) is not None]
        if self.batch_size is not None and ways:
            raise ValueError(
                f"batch_size is a static batch and {ways[0]} says when requests come; keep one (batch_size: null)"
            )
        if self.trace_file is not None and len(ways) > 1 and "request_rate" in ways:
            raise ValueError("trace_file and request_rate both say when requests come; keep one")
        if self.trace_file is None and self.lengths.kind != "file":
            missing = [n for n in ("input_len", "output_len") if getattr(self, n) is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)} is missing; a whole number from 1 is accepted")
        if self.arrivals == "batch" and self.lengths.kind != "fixed":
            raise ValueError(
                f"a static batch has one length, not {self.lengths.kind} ones; give max_concurrency or request_rate"
            )
        return self

    @property
    def arrivals(self) -> Arrivals:
        """Which kind of load this is."""
        if self.trace_file is not None:
            return "trace"
        if self.request_rate is not None:
            return "open_loop"
        return "batch" if self.max_concurrency is None else "closed_loop"

    @property
    def size(self) -> int:
        """Requests in the engine at once, at most, as far as the workload says."""
        return self.batch_size or self.max_concurrency or 1

    @property
    def picture_len(self) -> int:
        """Prompt tokens that are images, in ``input_len`` once ``image_tokens`` says how many one has."""
        return self.images.per_request * self.image_tokens if self.images else 0

    @property
    def mean_input_len(self) -> float:
        """Mean prompt tokens where one formula gives them; input_len otherwise."""
        return self.picture_len + self._mean((self.input_len or 1) - self.picture_len)

    @property
    def mean_output_len(self) -> float:
        return self._mean(self.output_len or 1)

    def _mean(self, length: int) -> float:
        if isinstance(self.lengths, Uniform):
            return length * (self.lengths.low + self.lengths.high) / 2
        return float(length)

    def longest(self) -> tuple[int, int]:
        """The longest prompt and output that can come, where a bound exists; else the stated lengths."""
        stretch = self.lengths.high if isinstance(self.lengths, Uniform) else 1.0
        text, pictures = (self.input_len or 1) - self.picture_len, self.picture_len
        longest_in, longest_out = (max(int(n * stretch), 1) for n in (text, self.output_len or 1))
        return pictures + longest_in, longest_out
