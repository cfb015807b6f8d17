"""Images that a model does not take, or that make prompts it cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.inputs.plan_checks import Finding
from moesim.inputs.scenario import Scenario
from moesim.inputs.workload import Images
from moesim.models.model import Model
from moesim.models.vision import Tower


def image_findings(scenario: Scenario, model: Model | None) -> Iterator[Finding]:
    """Images that a model does not take, or that nothing here runs."""
    load, where = scenario.workload, ("workload", "images")
    if load.images is None:
        if load.image_tokens:
            yield ("workload", "image_tokens"), "says how many tokens an image has, but requests have no images"
        return
    if model is not None and model.tower is None:
        yield where, f"{model.name} has no image tower that is known here"
        return
    if load.arrivals == "trace" or load.lengths.kind == "file":
        yield where, "images go with input_len, not with lengths from a file or a trace"
    if scenario.offload is not None or scenario.disaggregation is not None:
        yield where, "images are predicted on engines whose weights are all on their GPUs, prefill and decode together"
    if model is not None and scenario.engine.pipeline_parallel_size > 1:
        yield where, "images are predicted on one pipeline stage alone; pipeline_parallel_size 1 is accepted"
    if load.cached_share:
        yield ("workload", "cached_share"), "images stand before the text and differ: prompts have no part in common"
    if model is not None and model.tower is not None:
        yield from _image_tokens(scenario, load.images, model, model.tower)


def _image_tokens(scenario: Scenario, images: Images, model: Model, tower: Tower) -> Iterator[Finding]:
    """What images make of prompts."""
    load, where = scenario.workload, ("workload", "images")
    longest = sum(load.longest())
    if tower.refuses(images.width, images.height):
        message = f"{images.width} x {images.height} is longer on one side than {model.name}'s processor takes"
        yield where, f"{message}: up to {tower.longest} times the other"
    each = tower.picture(images.width, images.height, images.per_request).tokens
    if load.image_tokens not in {0, each}:
        message = f"{load.image_tokens} tokens an image, where {model.name} makes {each} of this size; leave it out"
        yield ("workload", "image_tokens"), message
    elif load.image_tokens and load.input_len is not None and load.input_len <= load.picture_len:
        message = f"{load.input_len} tokens with images of {load.picture_len} leave no text; leave image_tokens out"
        yield ("workload", "input_len"), message
    if not load.image_tokens:
        more, limit = images.per_request * each, scenario.engine.max_model_len or model.max_position_embeddings
        if limit and longest <= limit < longest + more:
            yield where, f"{more} tokens of images make a request of {longest + more}, more than the {limit} positions"
