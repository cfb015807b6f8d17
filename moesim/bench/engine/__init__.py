"""A real vLLM engine from a model's config.json alone: random weights, prompts of token ids, every step recorded."""
