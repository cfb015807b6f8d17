"""Who goes where: which experts a step touches, which rank holds them, and what the busiest has to do."""
