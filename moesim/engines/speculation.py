"""Speculative decoding as a scenario writes it, under vLLM's names; how many tokens a round of it gives.

A round drafts ``num_speculative_tokens`` tokens and checks them at once; those before the first wrong one are kept, and
one more comes from the check itself (Leviathan et al., arXiv 2211.17192). How many are kept is an input, never a
prediction.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moesim.files.quantities import NO_SWITCH, PathText, Strict, Whole

Share = Annotated[float, Field(ge=0, le=1)]
Method = Literal["draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram"]
MOST_DRAFTS = 32
_EXACT = 512
"""Rounds are counted one by one up to so many tokens; beyond, by their mean."""


class SpeculativeConfig(Strict):
    """vLLM's ``--speculative-config``, and how many drafts are accepted."""

    method: Method = "draft_model"
    """A draft model, a head of one layer (EAGLE), the model's own layer (MTP), heads beside each other (Medusa), or the
    text so far (n-gram). Left out, it is told by the draft model's name, as vLLM tells it."""
    model: PathText | None = None
    """The draft model: a name of the catalogue, a folder or a config.json. EAGLE without one is built as the target."""
    num_speculative_tokens: Annotated[int, Field(ge=0, le=MOST_DRAFTS), NO_SWITCH]
    """Tokens drafted a round; 0 is no speculation."""
    draft_tensor_parallel_size: Whole | None = None
    """null is the target's."""
    prompt_lookup_max: Whole | None = None
    prompt_lookup_min: Whole | None = None
    """Of n-grams; their search takes no time here."""
    parallel_drafting: bool = False
    """All drafts out of one pass."""
    acceptance_rate: Share | None = None
    """Chance that a draft is kept where all before it are: one number for every place."""
    acceptance_rates: tuple[Share, ...] | None = None
    """Share of rounds in which the first, second, ... draft is kept, as vLLM's metrics count them: each counts what all
    before it passed, so they fall."""
    acceptance_length: Annotated[float, Field(ge=1, le=MOST_DRAFTS + 1)] | None = None
    """Mean tokens that come out of a round, as vLLM logs it; what one acceptance_rate would give it."""
    acceptance_source: str = ""
    """Where that was measured."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("method") is not None:
            return data
        name = str(data.get("model") or "").lower()
        by_part = {"ngram": "ngram", "eagle3": "eagle3", "eagle-": "eagle", "medusa": "medusa", "mtp": "mtp"}
        found = next((method for part, method in by_part.items() if part in name), "draft_model")
        return {**data, "method": found}

    @field_validator("method", mode="before")
    @classmethod
    def _as_vllm_spells_it(cls, value: Any) -> Any:
        return "mtp" if isinstance(value, str) and value.endswith("_mtp") else value

    @model_validator(mode="after")
    def _consistent(self) -> SpeculativeConfig:
        rates, wanted = self.acceptance_rates, self.num_speculative_tokens
        names = ("acceptance_rate", "acceptance_rates", "acceptance_length")
        said = [name for name in names if getattr(self, name) is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} say the same thing; keep one")
        if not said and wanted:
            raise ValueError(
                "how many drafts are accepted is measured, not predicted: give acceptance_rate (0 to 1; "
                "--acceptance-rate 0.7), acceptance_rates by place, or acceptance_length (tokens a round)"
            )
        if wanted and self.acceptance_length is not None and self.acceptance_length > 1 + wanted:
            raise ValueError(f"acceptance_length {self.acceptance_length:g} is more than {wanted} drafts and one give")
        if rates is not None and len(rates) < wanted:
            raise ValueError(f"acceptance_rates has {len(rates)} places for {wanted} drafts; one for each is needed")
        if rates is not None and any(later > earlier + 1e-9 for earlier, later in pairwise(rates)):
            raise ValueError(
                "acceptance_rates rise: each counts rounds in which all drafts before were kept too, so they fall"
            )
        if self.method == "ngram" and self.model not in (None, "ngram", "[ngram]"):
            raise ValueError(f"method ngram runs no model; leave out {self.model!r}, or name its method")
        if self.method != "ngram" and (self.prompt_lookup_max or self.prompt_lookup_min):
            raise ValueError(f"prompt_lookup_max and prompt_lookup_min have a part only under ngram, not {self.method}")
        if self.method == "draft_model" and not self.model:
            raise ValueError("method draft_model needs 'model', the name of the draft model")
        if self.prompt_lookup_min and self.prompt_lookup_max and self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError("prompt_lookup_min is above prompt_lookup_max")
        return self

    @cached_property
    def kept(self) -> tuple[float, ...]:
        """Chance that at least the first, the first two, ... drafts are kept."""
        count = self.num_speculative_tokens
        if self.acceptance_rates is not None:
            return self.acceptance_rates[:count]
        rate = self.acceptance_rate
        if self.acceptance_length is not None:
            rate = rate_of_length(self.acceptance_length, count)
        return geometric(rate or 0.0, count)

    @property
    def note(self) -> str:
        """Where the acceptance comes from."""
        source = f"as given ({self.acceptance_source})" if self.acceptance_source else "as given, without a source"
        return f"speculation: acceptance {source}; no interval covers it"

    @property
    def reserved_slots(self) -> int:
        """Rows that drafting adds to a sequence's own in the draft's first pass."""
        more = self.num_speculative_tokens - 1 if self.parallel_drafting else 0
        return more + (self.method == "draft_model")


def geometric(rate: float, count: int) -> tuple[float, ...]:
    """Chance that at least the first, the first two, ... drafts are kept, each with a chance of ``rate``."""
    return tuple(rate ** (i + 1) for i in range(count))


def rate_of_length(length: float, count: int) -> float:
    """The acceptance rate under which a round of ``count`` drafts gives so many tokens; 1 where none gives more."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_a_round(geometric(middle, count)) < length else (low, middle)
    return high


def tokens_a_round(kept: tuple[float, ...]) -> float:
    """Mean tokens that come out of a round: one, and every draft that is kept."""
    return 1.0 + sum(kept)


@lru_cache(maxsize=256)
def _rounds_up_to(kept: tuple[float, ...], most: int) -> tuple[float, ...]:
    """Mean rounds until 0, 1, ..., ``most`` tokens are there."""
    chance = [a - b for a, b in pairwise((1.0, *kept, 0.0))]
    found = [0.0]
    for n in range(1, most + 1):
        found.append(1.0 + sum(p * found[max(n - 1 - i, 0)] for i, p in enumerate(chance)))
    return tuple(found)


def rounds(kept: tuple[float, ...], tokens: int) -> float:
    """Mean rounds until ``tokens`` tokens are there: the last one may bring more than are needed."""
    if not kept:
        return float(tokens)
    exact = min(tokens, _EXACT)
    return _rounds_up_to(kept, exact)[exact] + (tokens - exact) / tokens_a_round(kept)


def mean_rounds(kept: tuple[float, ...], tokens: float) -> float:
    """The same of a mean number of tokens, which need not be whole."""
    if not kept:
        return tokens
    low = int(tokens)
    return rounds(kept, low) + (tokens - low) * (rounds(kept, low + 1) - rounds(kept, low))
